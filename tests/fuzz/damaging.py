"""Files as nobody should write them: whole ones with bytes changed, lost, repeated and replaced by odd values."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

INPUTS = int(os.environ.get("INPUTS", "20"))
"""Inputs of each test."""
TIME_S = 10.0

_UNASKED = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture)
quick = settings(max_examples=INPUTS, deadline=None, database=None, suppress_health_check=_UNASKED)


def ends(read: Callable[[], Any], *allowed: type[Exception]) -> Any:
    """What a reader gives; None if it raises a documented error. It may not take long."""
    start_s = time.monotonic()
    found = None
    with suppress(*allowed):
        found = read()
    assert time.monotonic() - start_s < TIME_S
    return found


def write(file: Path, content: bytes) -> Path:
    """Writes a file, and gives it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


ODD_NUMBERS = (
    *("1e400", "-1e400", "1" + "0" * 400, "99999999999999999999", "-1", "0", "NaN", "Infinity", "1.5", "true", "null"),
    *('"nan"', '""', '"\\ud800"', '"\\u0000"', "[]", "{}", '"' + "x" * 300 + '"', "[" * 200 + "]" * 200),
)
"""JSON texts that take the place of a value."""
ODD_TEXTS = (
    "",
    "\0",
    "../../etc/passwd",
    "=HYPERLINK(1)",
    "x" * 300,
    "a:b=c",
    "\ud800",
    "-0",
    "1e999",
    "[" * 3000,
    "é\n",
)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file with a few places damaged, or any bytes at all."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=200))
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.sampled_from((1, 1, 2, 8, 64)))
        how = draw(st.sampled_from(("flip", "zero", "full", "cut", "drop", "repeat", "insert")))
        if how == "flip" and content:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif how in ("zero", "full"):
            content[place : place + length] = (b"\0" if how == "zero" else b"\xff") * min(length, len(content) - place)
        elif how == "cut":
            del content[place:]
        elif how == "drop":
            del content[place : place + length]
        elif how == "repeat":
            content[place:place] = content[place : place + length]
        else:
            content[place:place] = draw(st.binary(max_size=8))
    return bytes(content)


@st.composite
def odd_json(draw: st.DrawFn, whole: Any) -> bytes:
    """A JSON text with some of its values replaced, and some keys lost or misspelt."""
    whole = json.loads(json.dumps(whole))
    places = list(_places(whole))
    odd: dict[str, str] = {}
    for number in draw(st.lists(st.integers(0, len(places) - 1), min_size=1, max_size=3, unique=True)):
        holder, key = places[number]
        how = draw(st.sampled_from(("replace", "replace", "lose", "misspell")))
        value = holder[key]
        if how == "lose" and isinstance(holder, dict):
            del holder[key]
        elif how == "misspell" and isinstance(holder, dict):
            holder[f"{key}x"] = holder.pop(key)
        else:
            mark = f"@{number}@"
            odd[json.dumps(mark)], holder[key] = draw(st.sampled_from((*ODD_NUMBERS, json.dumps([value])))), mark
    text = json.dumps(whole)
    for mark, replacement in odd.items():
        text = text.replace(mark, replacement)
    return text.encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every holder and key below a value, the deepest first: what is replaced holds no later place."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, dict | list):
            yield from _places(item)
        yield value, key


def odd_texts(parts: str) -> st.SearchStrategy[str]:
    """Texts out of some pieces and odd ones, and any text."""
    pieces = st.sampled_from([*parts.split(), *ODD_TEXTS, *":=@,;[]*?./"])
    return st.lists(pieces, max_size=8).map("".join) | st.text(max_size=30)

"""Files as nobody should write them: whole ones with bytes changed, lost, repeated and replaced by odd values.

Few inputs are drawn by hypothesis, which shrinks one that fails; many by a seed alone, which costs microseconds.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

INPUTS = int(os.environ.get("INPUTS", "20"))
"""Inputs of each test."""
SEED = int(os.environ.get("SEED", "0"))
MOST_DRAWN = 500
"""Inputs of each test that hypothesis draws at most."""
TIME_S = 10.0

_UNASKED = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture)
_quick = settings(max_examples=INPUTS, deadline=None, database=None, suppress_health_check=_UNASKED)


def every_input(test: Callable[..., None]) -> Callable[..., None]:
    """Calls a test once for each input, with the source of chance `chance`; a failure names the input's seed."""
    if INPUTS <= MOST_DRAWN:
        return _quick(given(chance=st.randoms(use_true_random=False))(test))

    @functools.wraps(test)
    def call(**fixtures: Any) -> None:
        for number in range(INPUTS):
            try:
                test(**fixtures, chance=random.Random(f"{SEED} {number}"))
            except BaseException as error:
                error.add_note(f"chance=random.Random('{SEED} {number}')")
                raise

    shown = inspect.signature(test)
    kept = [each for name, each in shown.parameters.items() if name != "chance"]
    call.__signature__ = shown.replace(parameters=kept)  # type: ignore[attr-defined]
    return call


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
    "[" * 1200,
    "é\n",
)


def damaged(chance: Random, whole: bytes) -> bytes:
    """A file with a few places damaged, or any bytes at all."""
    if chance.randrange(20) == 0:
        return chance.randbytes(chance.randrange(201))
    content = bytearray(whole)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(content) or 1)
        length = chance.choice((1, 1, 2, 8, 64))
        how = chance.choice(("flip", "zero", "full", "cut", "drop", "repeat", "insert"))
        if how == "flip" and content:
            content[place] ^= 1 << chance.randrange(8)
        elif how in ("zero", "full"):
            content[place : place + length] = (b"\0" if how == "zero" else b"\xff") * min(length, len(content) - place)
        elif how == "cut":
            del content[place:]
        elif how == "drop":
            del content[place : place + length]
        elif how == "repeat":
            content[place:place] = content[place : place + length]
        else:
            content[place:place] = chance.randbytes(chance.randrange(9))
    return bytes(content)


def odd_json(chance: Random, whole: Any) -> bytes:
    """A JSON text with some of its values replaced, and some keys lost or misspelt."""
    whole = json.loads(json.dumps(whole))
    places = list(_places(whole))
    odd: dict[str, str] = {}
    for number in chance.sample(range(len(places)), min(chance.randint(1, 3), len(places))):
        holder, key = places[number]
        how = chance.choice(("replace", "replace", "lose", "misspell"))
        value = holder[key]
        if how == "lose" and isinstance(holder, dict):
            del holder[key]
        elif how == "misspell" and isinstance(holder, dict):
            holder[f"{key}x"] = holder.pop(key)
        else:
            mark = f"@{number}@"
            odd[json.dumps(mark)], holder[key] = chance.choice((*ODD_NUMBERS, json.dumps([value]))), mark
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


def odd_text(chance: Random, parts: str) -> str:
    """A text out of some pieces and odd ones, or any text."""
    if chance.randrange(3) == 0:
        return "".join(map(chr, chance.choices(_CHARACTERS, k=chance.randrange(31))))
    return "".join(chance.choices((*parts.split(), *ODD_TEXTS, *":=@,;[]*?./"), k=chance.randrange(9)))


_CHARACTERS: Sequence[int] = (*range(256), *range(0x300, 0x310), *range(0x2020, 0x2030), 0xD800, 0xFEFF, 0x1F600)
"""Those of bytes, those that join others, signs of direction, a lone surrogate, a byte order mark and a smiley."""

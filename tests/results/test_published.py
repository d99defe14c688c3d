"""Runs that are committed: whole, readable, without places of the machine that made them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hedgebench.results.store import RunStore

PUBLISHED = Path(__file__).parents[2] / "results" / "published"
RUNS = sorted({path.parent.parent for path in PUBLISHED.rglob("cells/*.json")})


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_a_run_can_be_read_and_names_no_place_of_a_machine(run: Path) -> None:
    found = RunStore(run).records()
    assert found.records
    assert not found.corrupt
    for path in (run / "cells").iterdir():
        absolute = [text for text in _texts(json.loads(path.read_text(encoding="utf-8"))) if text.startswith("/")]
        assert absolute == [], path


def _texts(value: Any) -> Iterator[str]:
    """Every text of a JSON value; those with `=`, as names of tasks, in parts."""
    if isinstance(value, str):
        yield from value.split("=")
    elif isinstance(value, dict):
        yield from _texts([*value, *value.values()])
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


@pytest.mark.parametrize("page", sorted(PUBLISHED.rglob("*.md")), ids=lambda page: page.parent.name)
def test_pictures_of_a_page_lie_beside_it(page: Path) -> None:
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / name).is_file(), name

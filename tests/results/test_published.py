"""Runs that are committed: whole, readable, without places of the machine that made them."""

from __future__ import annotations

import re
from pathlib import Path

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
        assert not re.search(r'"(/work|/tmp|/home|/root)/', path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("page", sorted(PUBLISHED.rglob("*.md")), ids=lambda page: page.parent.name)
def test_pictures_of_a_page_lie_beside_it(page: Path) -> None:
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / name).is_file(), name

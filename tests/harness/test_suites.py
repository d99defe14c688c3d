"""Suites name what exists, and the quickstart needs no download."""

from __future__ import annotations

import pytest

from hedgebench.harness.config import make_config
from hedgebench.harness.plan import make_plan
from hedgebench.harness.suites import SUITES


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_can_be_planned_in_full(name: str) -> None:
    suite = SUITES[name]
    planned = make_plan(make_config({"suite": name}))
    assert suite.name == name
    assert {p.cell.task for p in planned} == set(suite.tasks)
    assert {(p.cell.task, p.cell.scale) for p in planned} == set(suite.tasks.items())


def test_the_quickstart_needs_neither_network_nor_mirror() -> None:
    planned = make_plan(make_config({}))
    assert all(p.problem is None for p in planned)
    assert {p.cell.data.source for p in planned} <= {"generated", "embedded"}

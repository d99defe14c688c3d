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


def test_recipes_and_settings_of_a_suite_are_those_of_its_tasks() -> None:
    suite = SUITES["quickstart"]
    cells = {planned.cell.task: planned.cell for planned in make_plan(make_config({}))}
    assert set(suite.settings) | set(suite.recipes) <= set(cells)
    assert {task: cells[task].recipe for task in suite.recipes} == dict(suite.recipes)
    recall = cells["associative_recall"].settings
    assert [recall[stage]["steps"] for stage in ("train", "distill", "finetune")] == [600, 150, 100]
    assert cells["memory"].settings["task"]["modes"] == "prefill+state"


def test_flags_go_before_the_settings_of_a_suite_and_another_scale_has_its_own() -> None:
    for values, steps in (({"set": {"train.steps": "7"}}, 7), ({"suite": "quickstart", "scale": "smoke"}, 200)):
        (found,) = {
            planned.cell.settings["train"]["steps"]
            for planned in make_plan(make_config(values))
            if planned.cell.task == "associative_recall"
        }
        assert found == steps

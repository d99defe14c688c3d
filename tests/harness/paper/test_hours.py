"""Tests of harness/paper/hours.py: hours left are counted at the rate of the nearest cells that are done."""

from __future__ import annotations

import pytest

from hedgebench.harness.cell import PlannedCell
from hedgebench.harness.config import RunConfig
from hedgebench.harness.costs.training import training_cost
from hedgebench.harness.paper.hours import Rates
from hedgebench.harness.paper.reproduce import PaperPlan
from hedgebench.harness.plan import make_plan
from hedgebench.results.record import SCHEMA_VERSION, Record

CONFIG = RunConfig(models=("softmax", "elu"), tasks=("associative_recall", "stdlib"), recipe="scratch")


def done(planned: PlannedCell, seconds: float) -> Record:
    cell = planned.cell
    return Record(
        SCHEMA_VERSION, "run", cell.key, cell.model, cell.backbone, cell.task, cell.recipe, cell.scale, cell.seed, "ok",
        "accuracy", (), {}, {"train": seconds - 1, "predict": 1.0}, (), None, {},
    )  # fmt: skip


def flops(planned: PlannedCell) -> float:
    cost = training_cost(planned)
    assert cost is not None
    return cost.flops


@pytest.fixture(scope="module")
def cells() -> list[PlannedCell]:
    """Recall with softmax and ELU, then a language model with both."""
    return make_plan(CONFIG)


def test_a_cell_is_counted_at_the_rate_of_done_cells_of_its_task(cells: list[PlannedCell]) -> None:
    plan = PaperPlan(CONFIG, {"a": tuple(cells)}, ())
    records = {p.cell.key: done(p, 100.0 * (i + 1)) for i, p in enumerate(cells[:3])}
    found = Rates(plan, records).hours(("a",))
    assert found.taken == pytest.approx(600 / 3600)
    assert found.left == pytest.approx(300 * flops(cells[3]) / flops(cells[2]) / 3600)
    assert (found.sources, found.unknown, found.left_text) == ({"task": 1}, 0, f"{found.left:.2f}")


def test_a_task_without_done_cells_takes_the_rate_of_its_study_and_then_of_the_list(cells: list[PlannedCell]) -> None:
    together = PaperPlan(CONFIG, {"a": tuple(cells)}, ())
    apart = PaperPlan(CONFIG, {"a": tuple(cells[:2]), "b": tuple(cells[2:])}, ())
    records = {p.cell.key: done(p, 50.0) for p in cells[:2]}
    expected = 100 * (flops(cells[2]) + flops(cells[3])) / (flops(cells[0]) + flops(cells[1])) / 3600
    for plan, studies, source in ((together, ("a",), "study"), (apart, ("b",), "list")):
        found = Rates(plan, records).hours(studies)
        assert found.left == pytest.approx(expected)
        assert found.sources == {source: 2}


def test_nothing_is_guessed_where_nothing_is_done(cells: list[PlannedCell]) -> None:
    found = Rates(PaperPlan(CONFIG, {"a": tuple(cells)}, ()), {}).hours(("a",))
    assert (found.left, found.sources, found.unknown, found.left_text) == (0, {}, 4, "not known")


def test_a_cell_that_trains_nothing_takes_the_mean_of_its_task() -> None:
    config = RunConfig(models=("softmax", "elu", "relu"), tasks=("stdlib",), recipe="zero-shot")
    cells = make_plan(config)
    plan = PaperPlan(config, {"a": tuple(cells)}, ())
    found = Rates(plan, {p.cell.key: done(p, 10.0 * (i + 1)) for i, p in enumerate(cells[:2])}).hours(("a",))
    assert found.left == pytest.approx(15 / 3600)
    assert found.sources == {"task": 1}


def test_cells_that_are_known_and_cells_that_are_not_are_told_apart(cells: list[PlannedCell]) -> None:
    untrained = make_plan(RunConfig(models=("softmax",), tasks=("stdlib",), recipe="zero-shot"))
    plan = PaperPlan(CONFIG, {"a": (*cells[:2], *untrained)}, ())
    found = Rates(plan, {cells[0].cell.key: done(cells[0], 10.0)}).hours(("a",))
    assert (found.sources, found.unknown) == ({"task": 1}, 1)
    assert found.left_text.endswith(" without 1 cell")

"""The same command gives the same numbers, however many cells run at a time; docs/scaling.md says what changes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hedgebench.results.record import CurvePoint, Metric
from hedgebench.results.store import RunStore

SMALL = ("train.steps=3", "train.eval_rows=16", "train_samples=64", "validation_samples=16", "test_samples=16")


def measured(
    bench: Callable[..., Any], output: str, workers: int
) -> dict[str, tuple[tuple[Metric, ...], tuple[CurvePoint, ...]]]:
    """Metrics and training curves of each cell of a run of its own."""
    sets = [part for pair in SMALL for part in ("--set", pair)]
    tasks = "associative_recall,digits,icl_regression"
    asked = ("--models", "hedgehog", "--tasks", tasks, "--scale", "smoke", "--limit", 16, *sets)
    assert bench("run", *asked, "--workers", workers, "--output", output, "--quiet").code == 0
    return {record.cell_id: (record.metrics, record.curves) for record in RunStore(Path(output)).records().records}


def test_the_same_command_gives_the_same_bits_with_one_and_with_two_workers(bench: Callable[..., Any]) -> None:
    one = measured(bench, "one", workers=1)
    assert len(one) == 3
    assert measured(bench, "two", workers=2) == one


@pytest.mark.slow
def test_two_processes_that_share_each_cell_s_batches_give_the_numbers_of_one(
    bench: Callable[..., Any], tiny: list[str]
) -> None:
    command = ["run", "--models", "softmax,hedgehog", *tiny, "--recipe", "scratch-conversion", "--device", "cpu"]
    found = []
    for devices in (1, 2):
        output = f"with-{devices}"
        assert bench(*command, "--devices", devices, "--output", output).code == 0
        found.append({record.cell_id: record for record in RunStore(Path(output)).records().records})
    alone, together = found
    assert alone.keys() == together.keys()
    assert {record.environment.get("devices") for record in alone.values()} == {None}
    for key, record in together.items():
        assert record.environment["devices"] == 2
        for ours, theirs in ((record.curves, alone[key].curves), (record.metrics, alone[key].metrics)):
            assert [each.name for each in ours] == [each.name for each in theirs]
            assert [each.value for each in ours] == pytest.approx([each.value for each in theirs], rel=1e-4, abs=1e-5)

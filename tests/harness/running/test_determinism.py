"""The same command gives the same numbers, however many cells run at a time; docs/scaling.md says what changes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hedgebench.harness import registry
from hedgebench.harness.config import make_config
from hedgebench.harness.plan import make_plan, make_sources
from hedgebench.harness.running.job import CellJob
from hedgebench.harness.running.worker import run_job
from hedgebench.results.names import UsageError
from hedgebench.results.record import CurvePoint, Metric, Record
from hedgebench.results.store import RunStore

KNOWN = {
    **dict.fromkeys(("activation_sparsity", "attention_fidelity_cola", "icl_boolean"), 1e-5),
    **dict.fromkeys(("icl_regression", "lra/digits"), 1e-5),
    **dict.fromkeys(("attention_fidelity", "attention_fidelity_digits", "digits", "modular_arithmetic"), 1e-4),
    **dict.fromkeys(("layer_sensitivity", "layer_sensitivity_cola", "samsum"), 1e-3),
}
"""Of tasks whose numbers differ by more than a millionth between one thread and two, how far apart they may be."""
ROUNDING = "path_difference"
"""A metric that is itself a difference of rounding."""

MIRROR = os.environ.get("HEDGEBENCH_MIRROR", "")

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


@pytest.mark.slow
@pytest.mark.parametrize(
    "task", sorted(name for name, task in registry.tasks().items.items() if not task.info.own_device)
)
def test_two_threads_give_the_numbers_of_one(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints the largest difference of a task; with `HEDGEBENCH_MIRROR=DIR` of tasks whose data lie there, too."""
    asked = {"models": ("hedgehog",), "tasks": (task,), "scale": "smoke", "offline": True, "mirror": MIRROR}
    config = make_config(asked)
    try:
        (planned,) = make_plan(config)
    except UsageError as error:
        pytest.skip(f"data of the user's: {error}")
    if planned.problem is not None:
        pytest.skip(planned.problem.message)
    one, two = (
        run_job(CellJob(planned, config, tmp_path / f"{threads}", make_sources(config), threads), lambda _: None).record
        for threads in (1, 2)
    )
    assert (one.status, one.error, two.status) == ("ok", None, "ok")
    assert one.environment["threads"] != two.environment["threads"]
    found = [max(each, default=(0.0, "")) for each in differences(one, two)]
    with capsys.disabled():
        print(f"\n{task}: metrics {found[0]}, curves {found[1]}")
    assert max(found)[0] <= KNOWN.get(task, 1e-6)


def differences(one: Record, two: Record) -> Iterator[list[tuple[float, str]]]:
    """Of every metric, then of every point of a curve, how far two records are apart relative to the first."""
    found: list[tuple[Sequence[Metric | CurvePoint], ...]] = [(one.metrics, two.metrics), (one.curves, two.curves)]
    for ours, theirs in found:
        assert [each.name for each in ours] == [each.name for each in theirs]
        values = [(left.value, right.value, left.name) for left, right in zip(ours, theirs, strict=True)]
        assert [left is None for left, _, _ in values] == [right is None for _, right, _ in values]
        pairs = [(left, right, name) for left, right, name in values if left is not None and right is not None]
        yield [
            (abs(left - right) / max(abs(left), abs(right)), name)
            for left, right, name in pairs
            if left != right and name != ROUNDING
        ]

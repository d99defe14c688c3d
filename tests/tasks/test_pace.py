"""The machine's pace: a fixed piece of work."""

from __future__ import annotations

import statistics

import torch

from hedgebench.tasks.pace import pace_metric, pace_ms


def test_the_same_work_is_timed_again_and_again() -> None:
    times = pace_ms(torch.device("cpu"))
    assert len(times) == 7
    assert min(times) > 0


def test_the_pace_only_describes_and_keeps_its_samples() -> None:
    metric = pace_metric([3.0, 1.0, 2.0])
    assert (metric.value, metric.unit, metric.higher_is_better, metric.n) == (
        statistics.median((1, 2, 3)),
        "ms",
        None,
        3,
    )
    assert metric.samples == (3.0, 1.0, 2.0)

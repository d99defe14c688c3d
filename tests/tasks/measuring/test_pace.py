"""The machine's pace: a fixed piece of work."""

from __future__ import annotations

import statistics

import torch

from hedgebench.tasks.measuring.pace import measure_pace, pace_metric


def test_the_same_work_is_timed_again_and_again() -> None:
    samples = measure_pace(torch.device("cpu"))
    assert {work: len(times) for work, times in samples.items()} == {"compute": 7, "calls": 7, "memory": 7}
    assert min(min(times) for times in samples.values()) > 0


def test_the_pace_only_describes_and_keeps_its_samples() -> None:
    metric = pace_metric("memory", [3.0, 1.0, 2.0])
    assert (metric.value, metric.unit, metric.higher_is_better, metric.n) == (
        statistics.median((1, 2, 3)),
        "ms",
        None,
        3,
    )
    assert metric.at == {"work": "memory"}
    assert metric.samples == (3.0, 1.0, 2.0)

"""Tests of tasks/efficiency/scaling.py."""

from __future__ import annotations

import numpy as np
import pytest

from hedgebench.tasks.efficiency.scaling import exponent_metrics


def test_a_power_law_has_its_exponent_as_slope() -> None:
    metrics = exponent_metrics("e", "prefill", [(n, 3e-3 * n**1.7) for n in (128, 256, 512, 1024)], {})
    assert metrics[0].value == pytest.approx(1.7)
    assert metrics[0].stderr == pytest.approx(0, abs=1e-6)


def test_the_slopes_error_is_that_of_a_regression() -> None:
    metrics = exponent_metrics("e", "prefill", [(1, 1.0), (2, 2.5), (4, 3.5), (8, 9.0)], {})
    logs = np.log(np.array([[1, 2, 4, 8], [1.0, 2.5, 3.5, 9.0]]))
    x, y = logs - logs.mean(axis=1, keepdims=True)
    slope = (x @ y) / (x @ x)
    error = np.sqrt(np.square(y - slope * x).sum() / 2 / (x @ x))
    assert (metrics[0].value, metrics[0].stderr) == pytest.approx((slope, error))


def test_an_exponent_says_of_what_and_over_which_lengths() -> None:
    points = [(n, 5.0 + 1e-3 * n * n) for n in (16, 64, 256, 1024, 2048)]
    metrics = exponent_metrics("time_exponent", "prefill", points, {"batch_size": 1})
    fits = {metric.at["over"]: metric for metric in metrics if metric.name == "time_exponent"}
    assert set(fits) == {"16..2048", "256..2048"}
    assert all(m.at["of"] == "prefill" and m.at["batch_size"] == 1 for m in metrics)
    whole, long_end = fits["16..2048"].value, fits["256..2048"].value
    assert whole is not None
    assert long_end is not None
    assert whole < 1.7 < 1.9 < long_end < 2  # fixed costs count less where lengths are long


def test_the_interval_covers_the_true_exponent_as_often_as_it_says() -> None:
    rng, lengths, covered = np.random.default_rng(0), np.array([1, 2, 4, 8]), 0
    for _ in range(400):
        times = lengths**1.5 * np.exp(0.1 * rng.standard_normal(4))
        found = {
            m.name: m.value or 0.0 for m in exponent_metrics("e", "prefill", list(zip(lengths, times, strict=True)), {})
        }
        covered += found["e_low"] <= 1.5 <= found["e_high"]
    assert 0.92 < covered / 400 < 0.98


def test_two_lengths_have_no_exponent() -> None:
    assert exponent_metrics("time_exponent", "prefill", [(16, 1.0), (32, 2.0)], {}) == []
    assert exponent_metrics("time_exponent", "prefill", [], {}) == []

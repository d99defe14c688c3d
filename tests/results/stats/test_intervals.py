"""Tests of results/intervals.py."""

from __future__ import annotations

import numpy as np
import pytest

from hedgebench.results.stats.intervals import mean_estimate
from hedgebench.results.stats.statistics import index_bootstrap


def test_an_estimate_is_the_mean_with_the_error_of_the_index_bootstrap() -> None:
    values = np.random.default_rng(1).exponential(size=50)
    estimate = mean_estimate(values)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.stderr == index_bootstrap(lambda rows: values[rows].mean(axis=1), 50)
    assert estimate.n == 50


def test_ends_are_percentiles_of_a_plain_loop_of_resamples() -> None:
    values = np.random.default_rng(2).exponential(size=30)
    estimate = mean_estimate(values, coverage=0.9, draws=20_000)
    rng = np.random.default_rng(99)
    means = sorted(rng.choice(values, 30).mean() for _ in range(20_000))
    assert estimate.low == pytest.approx(means[1_000], rel=0.02)
    assert estimate.high == pytest.approx(means[19_000], rel=0.02)


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    estimates = [mean_estimate(rng.uniform(size=60), draws=500, seed=i) for i in range(300)]
    covered = [e.low <= 0.5 <= e.high for e in estimates if e.low is not None and e.high is not None]
    assert len(covered) == 300
    assert 0.90 <= np.mean(covered) <= 0.98


@pytest.mark.parametrize("values", [[0.5], [0.5, np.nan]])
def test_without_an_error_there_is_no_interval(values: list[float]) -> None:
    estimate = mean_estimate(values)
    assert (estimate.stderr, estimate.low, estimate.high) == (None, None, None)


def test_what_has_no_mean_or_no_coverage_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        mean_estimate([])
    with pytest.raises(ValueError, match="coverage is 95"):
        mean_estimate([1, 2], coverage=95)

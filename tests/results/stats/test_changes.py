"""Changes and their errors: known answers, an independent t-test, and what the bootstrap must agree with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from hedgebench.results.record import Metric
from hedgebench.results.stats.changes import (
    RUN_TO_RUN,
    Change,
    adjusted,
    paired_change,
    plain_change,
    seeds_change,
    timings_change,
)
from hedgebench.results.stats.scores import SampleScores

ACCURACY = Metric("accuracy", 0.5, "1", True, None, 1)
PERPLEXITY = Metric("perplexity", 20.0, "1", False, None, 1)
LATENCY = Metric("prefill_ms", 1.0, "ms", False, None, 1)
RATE = Metric("tokens_per_s", 1.0, "tokens/s", True, None, 1)


def means(values: np.ndarray) -> SampleScores:
    columns = np.stack([values, np.ones_like(values)], axis=1).astype(np.float64)
    return SampleScores(columns, lambda sums: sums[..., 0] / sums[..., 1], tuple(map(str, range(len(values)))))


def test_fractions_change_in_points_and_everything_else_by_its_ratio() -> None:
    assert plain_change(ACCURACY, 0.8, 0.79).worse == pytest.approx(0.01)
    assert plain_change(PERPLEXITY, 20, 20.2).worse == pytest.approx(math.log(1.01))
    assert plain_change(LATENCY, 2, 1).worse == pytest.approx(-math.log(2))
    assert plain_change(RATE, 2, 1).worse == pytest.approx(math.log(2))


def test_the_paired_error_is_that_of_the_mean_difference() -> None:
    rng = np.random.default_rng(1)
    before = (rng.random(400) < 0.7).astype(float)
    after = np.where(rng.random(400) < 0.05, 1 - before, before)
    change = paired_change(ACCURACY, [means(before)], [means(after)])
    expected: Any = stats.ttest_rel(before, after)
    assert change.worse == pytest.approx(float((before - after).mean()))
    assert change.stderr == pytest.approx(float((before - after).std(ddof=1)) / 20, rel=0.08)
    assert change.p_value == pytest.approx(float(expected.pvalue), rel=0.2)
    assert (change.n, change.method) == (400, "paired bootstrap")


def test_pairing_sees_what_two_separate_errors_would_hide() -> None:
    easy = np.linspace(0.1, 0.9, 200)
    change = paired_change(ACCURACY, [means(easy)], [means(easy - 0.01)])
    assert change.stderr == pytest.approx(0, abs=1e-9)
    assert change.worse == pytest.approx(0.01)
    assert easy.std() / math.sqrt(200) > 0.01


def test_the_spread_over_seeds_adds_to_the_paired_error() -> None:
    base = np.linspace(0.1, 0.9, 50)
    shifts = (0.00, 0.02, 0.04)
    change = paired_change(ACCURACY, [means(base)] * 3, [means(base - shift) for shift in shifts])
    assert change.worse == pytest.approx(0.02)
    assert change.stderr == pytest.approx(np.std(shifts, ddof=1) / math.sqrt(3))
    assert change.freedom == pytest.approx(2)


def test_seeds_are_tested_as_welch_does() -> None:
    before, after = [0.80, 0.82, 0.81, 0.83], [0.78, 0.80, 0.76]
    change = seeds_change(ACCURACY, before, after)
    expected: Any = stats.ttest_ind(before, after, equal_var=False)
    assert change.p_value == pytest.approx(float(expected.pvalue))
    assert change.worse == pytest.approx(np.mean(before) - np.mean(after))
    interval = expected.confidence_interval(0.95)
    assert change.worse - change.half_width() == pytest.approx(interval.low)


def test_timings_of_many_processes_are_tested_by_process() -> None:
    rng = np.random.default_rng(2)
    before, after = (list(scale * np.exp(rng.normal(0, 0.05, (5, 21)))) for scale in (1.0, 1.1))
    change = timings_change(LATENCY, before, after)
    medians = [[math.log(np.median(process)) for process in side] for side in (before, after)]
    expected: Any = stats.ttest_ind(medians[1], medians[0], equal_var=False)
    assert change.p_value == pytest.approx(float(expected.pvalue))
    assert change.worse == pytest.approx(np.mean(medians[1]) - np.mean(medians[0]))


def test_timings_of_one_process_carry_the_assumed_error_from_run_to_run() -> None:
    change = timings_change(LATENCY, [[1.0] * 20], [[1.1] * 20])
    assert change.worse == pytest.approx(math.log(1.1))
    assert change.stderr == pytest.approx(RUN_TO_RUN * math.sqrt(2))


def test_a_change_of_nothing_is_certain() -> None:
    assert Change(0.0, 0.0, math.inf, "paired bootstrap", 9).p_value == 1
    assert Change(0.1, 0.0, math.inf, "unpaired", 1).p_value == 0
    assert Change(0.1, None, math.inf, "tolerance", 1).p_value is None


def test_holms_adjustment_is_the_textbooks() -> None:
    assert adjusted({1: 0.01, 2: 0.04, 3: 0.03, 4: 0.005}) == pytest.approx({4: 0.02, 1: 0.03, 3: 0.06, 2: 0.06})


@pytest.mark.parametrize("n", [2, 3, 5, 6, 24])
def test_samples_that_all_change_alike_are_as_sure_as_the_test_by_signs(n: int) -> None:
    right, wrong = means(np.ones(n)), means(np.zeros(n))
    change = paired_change(ACCURACY, [right] * 2, [wrong] * 2)
    assert (change.worse, change.stderr) == (1.0, 0.0)
    assert change.p_value == pytest.approx(stats.binomtest(n, n).pvalue)


def test_a_p_value_that_is_no_number_takes_nothing_from_the_others() -> None:
    for order in ((1, 2, 3), (2, 1, 3), (3, 2, 1)):
        p_values = {1: math.nan, 2: 1e-6, 3: 1e-5}
        assert adjusted({key: p_values[key] for key in order}) == pytest.approx({1: 1.0, 2: 3e-6, 3: 2e-5})

from __future__ import annotations

import math
import tracemalloc
from statistics import fmean, stdev

import numpy as np
import pytest

from hedgebench.results.stats.statistics import (
    accuracy_stderr,
    count_bootstrap,
    index_bootstrap,
    mean_estimate,
    mean_stderr,
    ratio_bootstrap,
    seed_mean,
)

RNG = np.random.default_rng(7)
TOKENS = RNG.integers(50, 400, size=400).astype(float)
NLLS = TOKENS * RNG.normal(3.0, 0.4, size=400)


def delta_method(nlls: np.ndarray, tokens: np.ndarray) -> float:
    """Standard error of the ratio of sums, to first order."""
    residuals = nlls - nlls.sum() / tokens.sum() * tokens
    return float(math.sqrt(len(nlls) * residuals.var(ddof=1)) / tokens.sum())


def test_ratio_bootstrap_of_a_perplexity_agrees_with_the_delta_method() -> None:
    perplexity = math.exp(NLLS.sum() / TOKENS.sum())
    assert ratio_bootstrap(NLLS, TOKENS) == pytest.approx(perplexity * delta_method(NLLS, TOKENS), rel=0.05)


def test_ratio_bootstrap_of_bits_per_byte_agrees_with_the_delta_method() -> None:
    expected = delta_method(NLLS, TOKENS) / math.log(2)
    assert ratio_bootstrap(NLLS, TOKENS, "bits_ratio") == pytest.approx(expected, rel=0.05)


def test_a_function_can_take_the_place_of_a_named_statistic() -> None:
    assert ratio_bootstrap(NLLS, TOKENS, draws=500) == ratio_bootstrap(NLLS, TOKENS, "exp_ratio", draws=500)


def test_documents_that_are_all_alike_have_no_spread() -> None:
    assert ratio_bootstrap([3.0] * 20, [2.0] * 20) == 0
    assert mean_stderr([5.0] * 4) == 0
    assert accuracy_stderr(10, 10) == 0
    assert seed_mean([2.0, 2.0]) == (2.0, 0.0)


def test_one_document_or_seed_has_no_standard_error() -> None:
    assert ratio_bootstrap([3.0], [2.0]) is None
    assert index_bootstrap(lambda rows: rows.mean(axis=1), 1) is None
    assert count_bootstrap([1, 0], lambda counts: counts[:, 0]) is None
    assert mean_stderr([3.0]) is None
    assert accuracy_stderr(1, 1) is None
    assert seed_mean([2.5]) == (2.5, None)


def test_an_overflowing_perplexity_has_no_standard_error() -> None:
    assert ratio_bootstrap([2000.0, 3000.0], [1.0, 1.0]) is None


def test_the_same_samples_give_the_same_error() -> None:
    assert ratio_bootstrap(NLLS, TOKENS, draws=200) == ratio_bootstrap(NLLS, TOKENS, draws=200)


def test_index_bootstrap_of_a_mean_agrees_with_the_closed_form() -> None:
    values = RNG.normal(size=300)
    assert index_bootstrap(lambda rows: values[rows].mean(axis=1), 300) == pytest.approx(mean_stderr(values), rel=0.05)


def test_count_bootstrap_of_an_accuracy_agrees_with_the_closed_form() -> None:
    bootstrapped = count_bootstrap([[700, 100], [50, 150]], lambda c: (c[:, 0] + c[:, 3]) / c.sum(axis=1))
    assert bootstrapped == pytest.approx(accuracy_stderr(850, 1000), rel=0.05)


def test_accuracy_stderr_equals_the_mean_of_zeros_and_ones() -> None:
    assert accuracy_stderr(3, 10) == pytest.approx(mean_stderr([1.0] * 3 + [0.0] * 7))


def test_seed_mean_is_the_mean_and_its_error() -> None:
    values = [1.0, 2.5, 4.0, 8.0]
    assert seed_mean(values) == pytest.approx((fmean(values), stdev(values) / 2))


def test_memory_stays_bounded_for_many_documents() -> None:
    tracemalloc.start()
    ratio_bootstrap(np.ones(50_000), np.full(50_000, 2.0), draws=200)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120e6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ratio_bootstrap([1.0], [1.0, 2.0]), "1 numerators but 2 denominators"),
        (lambda: ratio_bootstrap([1.0, 1.0], [1.0, 0.0]), "a denominator is 0"),
        (lambda: ratio_bootstrap([1.0, 1.0], [1.0, 1.0], "mean"), "unknown statistic 'mean'; choose ratio"),  # type: ignore[arg-type]
        (lambda: ratio_bootstrap([1.0, 1.0], [1.0, 1.0], draws=1), "draws is 1"),
        (lambda: accuracy_stderr(5, 4), "5 correct answers out of 4"),
        (lambda: count_bootstrap([-1, 5], lambda counts: counts[:, 0]), "a count is -1"),
        (lambda: seed_mean([]), "at least one value"),
    ],
)
def test_impossible_arguments_are_named(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=message):
        call()


def test_an_estimate_is_the_mean_with_the_error_of_the_index_bootstrap() -> None:
    values = np.random.default_rng(1).exponential(size=50)
    estimate = mean_estimate(values)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.stderr == index_bootstrap(lambda rows: values[rows].mean(axis=1), 50)
    assert estimate.n == 50


def test_ends_are_percentiles_of_a_plain_loop_of_resamples() -> None:
    values = np.random.default_rng(2).exponential(size=30)
    estimate = mean_estimate(values, draws=20_000)
    rng = np.random.default_rng(99)
    means = sorted(rng.choice(values, 30).mean() for _ in range(20_000))
    assert estimate.low == pytest.approx(means[500], rel=0.02)
    assert estimate.high == pytest.approx(means[19_500], rel=0.02)


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    estimates = [mean_estimate(rng.uniform(size=60), draws=500) for _ in range(300)]
    covered = [e.low <= 0.5 <= e.high for e in estimates if e.low is not None and e.high is not None]
    assert len(covered) == 300
    assert 0.90 <= np.mean(covered) <= 0.98


@pytest.mark.parametrize("values", [[0.5], [0.5, np.nan]])
def test_without_an_error_there_is_no_interval(values: list[float]) -> None:
    estimate = mean_estimate(values)
    assert (estimate.stderr, estimate.low, estimate.high) == (None, None, None)


def test_what_has_no_mean_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        mean_estimate([])

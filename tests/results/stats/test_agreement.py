from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from hedgebench.results.stats.agreement import (
    confusion_counts,
    f1,
    f1_stderr,
    matthews,
    matthews_stderr,
    pearson_stderr,
    spearman_stderr,
)
from hedgebench.results.stats.statistics import accuracy_stderr, count_bootstrap, index_bootstrap

from ..correlations import pearson, spearman

RNG = np.random.default_rng(5)
LABELS = RNG.integers(0, 2, size=400)
GUESSES = np.where(RNG.random(400) < 0.75, LABELS, 1 - LABELS)
X = np.round(RNG.uniform(0, 5, size=120), 1)
Y = X + RNG.normal(size=120)
TIED = np.round(Y)


def brute_force(statistic: Callable[..., float], x: np.ndarray, y: np.ndarray, draws: int = 2000) -> float:
    rng = np.random.default_rng(11)
    resamples = (rng.integers(0, len(x), size=len(x)) for _ in range(draws))
    return float(np.std([statistic(x[rows], y[rows]) for rows in resamples], ddof=1))


def test_counts_are_in_scikit_learn_s_order() -> None:
    assert confusion_counts([0, 0, 0, 1, 1, 1], [0, 0, 1, 0, 1, 1]).tolist() == [2, 1, 1, 2]
    assert (confusion_counts(LABELS, GUESSES) == sklearn.metrics.confusion_matrix(LABELS, GUESSES).ravel()).all()


def test_perfect_and_inverted_predictions_are_plus_and_minus_one() -> None:
    assert matthews(confusion_counts(LABELS, LABELS)) == 1
    assert f1(confusion_counts(LABELS, LABELS)) == 1
    assert matthews(confusion_counts(LABELS, 1 - LABELS)) == -1
    assert f1(confusion_counts(LABELS, 1 - LABELS)) == 0


@pytest.mark.parametrize("guess", [0, 1])
def test_a_constant_prediction_has_no_matthews_correlation(guess: int) -> None:
    counts = confusion_counts(LABELS, np.full(400, guess))
    assert matthews(counts) == 0
    assert matthews_stderr(counts) == 0


def test_f1_by_hand() -> None:
    assert f1([0, 1, 2, 3]) == pytest.approx(6 / 9)
    assert f1([5, 0, 0, 0]) == 0


def test_values_agree_with_scikit_learn() -> None:
    counts = confusion_counts(LABELS, GUESSES)
    assert matthews(counts) == pytest.approx(sklearn.metrics.matthews_corrcoef(LABELS, GUESSES))
    assert f1(counts) == pytest.approx(sklearn.metrics.f1_score(LABELS, GUESSES))


def test_many_counts_at_once_equal_one_by_one() -> None:
    counts = RNG.integers(0, 9, size=(50, 4))
    assert matthews(counts).tolist() == [float(matthews(row)) for row in counts]
    assert f1(counts).tolist() == [float(f1(row)) for row in counts]


def test_matthews_does_not_overflow_for_large_counts() -> None:
    assert matthews([10**7, 0, 0, 10**7]) == 1


def test_the_error_of_matthews_agrees_with_the_closed_form() -> None:
    """With balanced margins that the resampling hardly moves, it is twice that of the accuracy."""
    stderr = accuracy_stderr(1600, 2000)
    assert stderr is not None
    assert matthews_stderr([800, 200, 200, 800]) == pytest.approx(2 * stderr, rel=0.03)


def test_the_error_of_f1_agrees_with_the_delta_method() -> None:
    tp, fp, fn, n = 300, 60, 40, 1000
    size = 2 * tp + fp + fn
    slopes = np.array([0, -2 * tp, -2 * tp, 2 * (fp + fn)]) / size**2
    shares = np.array([n - tp - fp - fn, fp, fn, tp]) / n
    expected = math.sqrt(n * ((shares * slopes**2).sum() - (shares * slopes).sum() ** 2))
    assert f1_stderr([n - tp - fp - fn, fp, fn, tp]) == pytest.approx(expected, rel=0.03)


def test_errors_of_counts_agree_with_resampling_samples() -> None:
    counts = confusion_counts(LABELS, GUESSES)
    expected = brute_force(lambda x, y: float(matthews(confusion_counts(x, y))), LABELS, GUESSES)
    assert matthews_stderr(counts) == pytest.approx(expected, rel=0.06)
    assert matthews_stderr(counts) == count_bootstrap(counts, matthews)


def test_correlations_agree_with_scipy() -> None:
    for y in (Y, TIED, -(Y**3)):
        assert pearson(X, y) == pytest.approx(scipy.stats.pearsonr(X, y)[0], abs=1e-12)
        assert spearman(X, y) == pytest.approx(scipy.stats.spearmanr(X, y)[0], abs=1e-12)


def test_a_far_away_mean_costs_no_precision() -> None:
    assert pearson(X + 1e8, Y) == pytest.approx(pearson(X, Y), abs=1e-7)


def test_a_line_correlates_fully_and_a_monotone_curve_in_rank() -> None:
    assert pearson(X, 3 * X - 7) == pytest.approx(1)
    assert pearson(X, -X) == pytest.approx(-1)
    assert spearman(X, np.exp(X)) == 1
    assert pearson_stderr(X, 2 * X) == pytest.approx(0, abs=1e-9)
    assert spearman_stderr(X, np.exp(X)) == 0


def test_a_constant_correlates_with_nothing() -> None:
    assert math.isnan(pearson([0.1] * 5, range(5)))
    assert math.isnan(spearman(range(5), [0.1] * 5))
    assert pearson_stderr([0.1] * 5, range(5)) is None
    assert math.isnan(pearson([], []))
    assert math.isnan(spearman([1.0], [2.0]))
    assert spearman_stderr([1.0], [2.0]) is None


def test_the_error_of_a_correlation_of_normal_samples_agrees_with_fisher() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=3000)
    y = 0.6 * x + 0.8 * rng.normal(size=3000)
    expected = (1 - pearson(x, y) ** 2) / math.sqrt(3000)
    assert pearson_stderr(x, y, draws=2000) == pytest.approx(expected, rel=0.08)


@pytest.mark.parametrize("y", [Y, TIED], ids=["distinct", "tied"])
def test_errors_of_correlations_agree_with_ranking_each_resample_anew(y: np.ndarray) -> None:
    def ranked(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.corrcoef(scipy.stats.rankdata(a), scipy.stats.rankdata(b))[0, 1])

    assert spearman_stderr(X, y) == pytest.approx(brute_force(ranked, X, y), rel=0.06)
    plain = brute_force(lambda a, b: float(np.corrcoef(a, b)[0, 1]), X, y)
    assert pearson_stderr(X, y) == pytest.approx(plain, rel=0.06)


def test_replicates_equal_scipy_s_on_the_same_resamples() -> None:
    def with_scipy(rows: np.ndarray) -> np.ndarray:
        return np.array([scipy.stats.spearmanr(X[row], TIED[row])[0] for row in rows])

    assert spearman_stderr(X, TIED, draws=3) == pytest.approx(index_bootstrap(with_scipy, len(X), draws=3), rel=1e-9)


def test_the_error_of_cola_takes_far_less_than_a_second() -> None:
    start = time.process_time()
    matthews_stderr([200, 122, 60, 661])
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: confusion_counts([0, 1], [0]), "2 labels but 1 predictions"),
        (lambda: confusion_counts([0, 2], [0, 1]), "a label is 2"),
        (lambda: confusion_counts([0, 1], [0, -1]), "a prediction is -1"),
        (lambda: pearson_stderr([0.0, 1.0], [0.0]), "2 labels but 1 predictions"),
    ],
)
def test_impossible_arguments_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()

"""Standard errors and intervals: bootstraps over independent samples, closed forms, and the spread over seeds.

A standard error that is not defined is None, as in `Metric.stderr`. Bootstraps are seeded, and draw in chunks to bound
the memory they take.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]
RatioStatistic: TypeAlias = Literal["ratio", "exp_ratio", "bits_ratio"]

_CHUNK_ELEMENTS = 1 << 21

_ERRORS = 2.0
_ERRORS_BY_SEEDS = {2: 12.7, 3: 4.3, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36}
"""Student's t at 95 %, for standard errors over few seeds."""

_RATIO_STATISTICS: Mapping[str, Callable[[Floats], Floats]] = {
    "ratio": lambda ratio: ratio,
    "exp_ratio": lambda ratio: np.asarray(np.exp(ratio)),
    "bits_ratio": lambda ratio: ratio / math.log(2),
}


def ratio_bootstrap(
    numerators: ArrayLike,
    denominators: ArrayLike,
    statistic: RatioStatistic | Callable[[Floats], Floats] = "exp_ratio",
    draws: int = 10_000,
    seed: int = 0,
) -> float | None:
    """Standard error of a function of Σnumerators / Σdenominators, by resampling whole documents.

    Args:
        numerators: One number per document, such as its summed negative log-likelihood in nats.
        denominators: One number per document, such as its tokens, words or bytes.
        statistic: `exp_ratio` for a perplexity, `bits_ratio` for bits per byte out of nats, `ratio`, or a function
            from an array of ratios to an array of values.
        draws: Bootstrap replicates.
        seed: Seed of the resampling.

    Returns:
        The standard deviation over the replicates; None for fewer than two documents or a non-finite replicate.

    Raises:
        ValueError: The arrays differ in length, a denominator is not positive, or the statistic is unknown.
    """
    tops, bottoms = np.asarray(numerators, np.float64).ravel(), np.asarray(denominators, np.float64).ravel()
    if tops.shape != bottoms.shape:
        raise ValueError(f"{tops.size} numerators but {bottoms.size} denominators; give one of each per document")
    if bottoms.size and bottoms.min() <= 0:
        raise ValueError(f"a denominator is {bottoms.min()}; leave out documents that have nothing to score")
    if isinstance(statistic, str) and statistic not in _RATIO_STATISTICS:
        raise ValueError(f"unknown statistic {statistic!r}; choose {', '.join(_RATIO_STATISTICS)} or give a function")
    function = _RATIO_STATISTICS[statistic] if isinstance(statistic, str) else statistic
    with np.errstate(over="ignore"):
        return index_bootstrap(
            lambda rows: function(tops[rows].sum(axis=1) / bottoms[rows].sum(axis=1)), tops.size, draws, seed
        )


def index_bootstrap(
    statistic: Callable[[Indices], ArrayLike], n: int, draws: int = 10_000, seed: int = 0
) -> float | None:
    """Standard error of any statistic of n samples, such as a correlation or a mean ROUGE.

    Args:
        statistic: From indices of samples, shape (replicates, n), to one value per replicate.
        n: Number of samples.
        draws: Bootstrap replicates.
        seed: Seed of the resampling.

    Returns:
        The standard deviation over the replicates; None for fewer than two samples or a non-finite replicate.
    """
    if n < 2:
        return None
    rng = np.random.default_rng(seed)
    return _spread([statistic(rng.integers(0, n, size=(size, n))) for size in _chunks(draws, n)])


def count_bootstrap(
    counts: ArrayLike, statistic: Callable[[Indices], ArrayLike], draws: int = 10_000, seed: int = 0
) -> float | None:
    """Standard error of a statistic of counts, such as Matthews correlation or F1 out of a confusion matrix.

    Resampling samples is the same as a multinomial draw of their counts, at a cost that does not depend on n.

    Args:
        counts: The counts in any shape; it is flattened.
        statistic: From counts, shape (replicates, number of counts), to one value per replicate.
        draws: Bootstrap replicates.
        seed: Seed of the resampling.

    Returns:
        The standard deviation over the replicates; None for fewer than two samples or a non-finite replicate.

    Raises:
        ValueError: A count is negative.
    """
    observed = np.asarray(counts, np.int64).ravel()
    if observed.size and observed.min() < 0:
        raise ValueError(f"a count is {observed.min()}; counts are zero or more")
    n = int(observed.sum())
    if n < 2:
        return None
    rng, shares = np.random.default_rng(seed), observed / n
    return _spread([statistic(rng.multinomial(n, shares, size=size)) for size in _chunks(draws, observed.size)])


@dataclass(frozen=True)
class MeanEstimate:
    """A mean with its standard error and confidence interval.

    Attributes:
        value: The mean.
        stderr: Standard deviation over the replicates; None for fewer than two values or a value that is not finite.
        low: Lower end of the interval; None if `stderr` is None.
        high: Upper end of the interval; None if `stderr` is None.
        n: Number of values.
    """

    value: float
    stderr: float | None
    low: float | None
    high: float | None
    n: int


def mean_estimate(values: ArrayLike, coverage: float = 0.95, draws: int = 10_000, seed: int = 0) -> MeanEstimate:
    """The mean of independent values with its percentile bootstrap interval (Efron and Tibshirani 1993, ch. 13).

    Args:
        values: One value per document.
        coverage: Share of the replicates between the ends of the interval.
        draws: Bootstrap replicates, each a resample of whole documents.
        seed: Seed of the resampling.

    Raises:
        ValueError: There are no values, or the coverage is not between 0 and 1.
    """
    if not 0 < coverage < 1:
        raise ValueError(f"coverage is {coverage}; it takes a share above 0 and below 1, such as 0.95")
    array = np.asarray(values, np.float64).ravel()
    if not array.size:
        raise ValueError("a mean needs at least one value")
    replicates: list[Floats] = []

    def mean_of(rows: Indices) -> Floats:
        replicates.append(array[rows].mean(axis=1))
        return replicates[-1]

    stderr = index_bootstrap(mean_of, array.size, draws, seed)
    low, high = None, None
    if stderr is not None:
        low, high = np.quantile(np.concatenate(replicates), [(1 - coverage) / 2, (1 + coverage) / 2]).tolist()
    return MeanEstimate(float(array.mean()), stderr, low, high, array.size)


def mean_stderr(values: ArrayLike) -> float | None:
    """Standard error of the mean of independent values; None for fewer than two or where one is not finite."""
    array = np.asarray(values, np.float64).ravel()
    if array.size < 2 or not np.isfinite(array).all():
        return None
    return float(array.std(ddof=1) / math.sqrt(array.size))


def accuracy_stderr(correct: int, n: int) -> float | None:
    """Standard error of the accuracy `correct` / n; equals `mean_stderr` of the zeros and ones.

    Raises:
        ValueError: `correct` is not between 0 and n.
    """
    if not 0 <= correct <= n:
        raise ValueError(f"{correct} correct answers out of {n}; give a count between 0 and {n}")
    if n < 2:
        return None
    share = correct / n
    return math.sqrt(share * (1 - share) / (n - 1))


def seed_mean(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean over seeds and its standard error over seeds (None for one seed).

    The error over seeds is the spread of training. It leaves out the uncertainty from the choice of the test set, as
    every seed is measured on the same one.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("a mean over seeds needs at least one value")
    mean = math.fsum(values) / len(values)
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def errors_that_count(seeds: int) -> float:
    """How many standard errors, over so many seeds, a difference must exceed to be significant at 95 %."""
    return _ERRORS_BY_SEEDS.get(seeds, _ERRORS)


def _chunks(draws: int, width: int) -> Iterator[int]:
    """Sizes that sum to `draws`, each small enough for one array of `width` columns."""
    if draws < 2:
        raise ValueError(f"draws is {draws}; a bootstrap needs at least 2, and 10000 is usual")
    size = max(1, _CHUNK_ELEMENTS // max(width, 1))
    for start in range(0, draws, size):
        yield min(size, draws - start)


def _spread(parts: list[Any]) -> float | None:
    replicates = np.concatenate([np.atleast_1d(np.asarray(part, np.float64)) for part in parts])
    if not np.isfinite(replicates).all():
        return None
    return float(replicates.std(ddof=1))

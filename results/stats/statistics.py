"""Standard errors and intervals: bootstraps over independent samples, closed forms, and the spread over seeds.

A standard error that is not defined is None, as in `Metric.stderr`. Bootstraps are seeded, and draw in chunks to limit
their memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]
RatioStatistic: TypeAlias = Literal["ratio", "exp_ratio", "bits_ratio"]

_CHUNK_ELEMENTS = 1 << 21
SEED = 0
"""Seed of every bootstrap."""

_ERRORS_BY_SEEDS = {2: 12.7, 3: 4.3, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36}
"""Student's t at 95 %, for standard errors over few seeds."""

_RATIO_STATISTICS: Mapping[str, Callable[[Floats], Floats]] = {
    "ratio": lambda ratio: ratio,
    "exp_ratio": lambda ratio: np.asarray(np.exp(ratio)),
    "bits_ratio": lambda ratio: ratio / math.log(2),
}


def ratio_bootstrap(
    numerators: ArrayLike, denominators: ArrayLike, statistic: RatioStatistic = "exp_ratio", draws: int = 10_000
) -> float | None:
    """Standard error of a function of Σnumerators / Σdenominators, by resampling whole documents.

    Args:
        numerators: One number per document, such as its summed negative log-likelihood in nats.
        denominators: One number per document, such as its tokens, words or bytes.
        statistic: `exp_ratio` for a perplexity, `bits_ratio` for bits per byte out of nats, or `ratio`.
        draws: Bootstrap replicates.

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
    if statistic not in _RATIO_STATISTICS:
        raise ValueError(f"unknown statistic {statistic!r}; choose {', '.join(_RATIO_STATISTICS)}")
    function = _RATIO_STATISTICS[statistic]
    with np.errstate(over="ignore"):
        return index_bootstrap(lambda rows: function(tops[rows].sum(1) / bottoms[rows].sum(1)), tops.size, draws)


def index_bootstrap(statistic: Callable[[Indices], ArrayLike], n: int, draws: int = 10_000) -> float | None:
    """Standard error of any statistic of n samples, such as a correlation or a mean ROUGE.

    Args:
        statistic: From indices of samples, shape (replicates, n), to one value per replicate.
        n: Number of samples.
        draws: Bootstrap replicates.

    Returns:
        The standard deviation over the replicates; None for fewer than two samples or a non-finite replicate.
    """
    return None if n < 2 else _spread(_replicates(statistic, n, draws))


def count_bootstrap(counts: ArrayLike, statistic: Callable[[Indices], ArrayLike], draws: int = 10_000) -> float | None:
    """Standard error of a statistic of counts, such as Matthews correlation or F1 out of a confusion matrix.

    Resampling samples is the same as a multinomial draw of their counts, at a cost that does not depend on n.

    Args:
        counts: The counts in any shape; it is flattened.
        statistic: From counts, shape (replicates, number of counts), to one value per replicate.
        draws: Bootstrap replicates.

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
    rng, shares = np.random.default_rng(SEED), observed / n
    parts = [statistic(rng.multinomial(n, shares, size=size)) for size in _chunks(draws, observed.size)]
    return _spread(np.concatenate(parts, dtype=np.float64))


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


def mean_estimate(values: ArrayLike, draws: int = 10_000) -> MeanEstimate:
    """The mean of independent values with its 95 % percentile interval (Efron and Tibshirani 1993, ch. 13).

    Args:
        values: One value per document.
        draws: Bootstrap replicates, each a resample of whole documents.

    Raises:
        ValueError: There are no values.
    """
    array = np.asarray(values, np.float64).ravel()
    if not array.size:
        raise ValueError("a mean needs at least one value")
    replicates = _replicates(lambda rows: array[rows].mean(axis=1), array.size, draws)
    stderr = _spread(replicates) if array.size > 1 else None
    low, high = (None, None) if stderr is None else np.quantile(replicates, [(1 - 0.95) / 2, (1 + 0.95) / 2]).tolist()
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
    all seeds are measured on the same test set.

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
    """How many of its standard errors a difference must exceed to be significant at 95 %.

    Args:
        seeds: Number of seeds that the standard error is taken over; Student's t up to 8 seeds, else 2.
    """
    return _ERRORS_BY_SEEDS.get(seeds, 2.0)


def _chunks(draws: int, width: int) -> Iterator[int]:
    """Sizes that sum to `draws`, each small enough for one array of `width` columns."""
    if draws < 2:
        raise ValueError(f"draws is {draws}; a bootstrap needs at least 2, and 10000 is usual")
    size = max(1, _CHUNK_ELEMENTS // max(width, 1))
    for start in range(0, draws, size):
        yield min(size, draws - start)


def _replicates(statistic: Callable[[Indices], ArrayLike], n: int, draws: int) -> Floats:
    """The statistic of each of `draws` resamples of n samples."""
    rng = np.random.default_rng(SEED)
    parts = [statistic(rng.integers(0, n, size=(size, n))) for size in _chunks(draws, n)]
    return np.concatenate(parts, dtype=np.float64)


def _spread(replicates: Floats) -> float | None:
    return float(replicates.std(ddof=1)) if np.isfinite(replicates).all() else None

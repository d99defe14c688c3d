"""Confidence intervals of means, from the bootstrap replicates that their standard errors come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .statistics import Floats, Indices, index_bootstrap


@dataclass(frozen=True)
class MeanEstimate:
    """A mean, and how sure it is.

    Attributes:
        value: The mean.
        stderr: Standard deviation over the replicates; None for fewer than two values or one that is not finite.
        low: Lower end of the interval; None where `stderr` is.
        high: Upper end of the interval; None where `stderr` is.
        n: How many values there are.
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
        ValueError: There are no values, or a coverage that is not between 0 and 1.
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
    if stderr is None:
        return MeanEstimate(float(array.mean()), None, None, None, array.size)
    low, high = np.quantile(np.concatenate(replicates), [(1 - coverage) / 2, (1 + coverage) / 2])
    return MeanEstimate(float(array.mean()), stderr, float(low), float(high), array.size)

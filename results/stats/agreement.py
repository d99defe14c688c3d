"""Agreement of predictions with labels: Matthews correlation, F1 and correlations, each with its standard error.

Values and bootstrap replicates come from the same formulas, over many resamples at once. A resample is a row of counts:
how often it holds each entry of a confusion matrix, or each sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .statistics import Floats, Indices, count_bootstrap, index_bootstrap


def confusion_counts(labels: ArrayLike, predictions: ArrayLike) -> Indices:
    """True negatives, false positives, false negatives and true positives `[4]` of zeros and ones.

    Raises:
        ValueError: The lengths differ, or a value is neither 0 nor 1.
    """
    truth, guess = _paired(labels, predictions, np.int64)
    for name, values in (("label", truth), ("prediction", guess)):
        if wrong := set(values.tolist()) - {0, 1}:
            raise ValueError(f"a {name} is {min(wrong)}; Matthews correlation and F1 are taken over 0 and 1")
    return np.bincount(2 * truth + guess, minlength=4)


def matthews(counts: ArrayLike) -> Floats:
    """Matthews correlation of confusion counts `[.. 4]` in the order of `confusion_counts`.

    It is 0 if only one class occurs among the labels or among the predictions, as in scikit-learn.
    """
    tn, fp, fn, tp = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    scale = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return np.asarray((tp * tn - fp * fn) / np.where(scale > 0, scale, np.inf))


def f1(counts: ArrayLike) -> Floats:
    """F1 of class 1 out of confusion counts `[.. 4]`; 0 if class 1 occurs neither in labels nor in predictions."""
    _, fp, fn, tp = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    return np.asarray(2 * tp / np.maximum(2 * tp + fp + fn, 1))


def matthews_stderr(counts: ArrayLike) -> float | None:
    """Standard error of `matthews`, by a bootstrap of the counts; None for fewer than two samples."""
    return count_bootstrap(counts, matthews)


def f1_stderr(counts: ArrayLike) -> float | None:
    """Standard error of `f1`, by a bootstrap of the counts; None for fewer than two samples."""
    return count_bootstrap(counts, f1)


def pearson_stderr(x: ArrayLike, y: ArrayLike, draws: int = 10_000) -> float | None:
    """Standard error of Pearson's correlation, by resampling pairs.

    None for fewer than two pairs, or if a side is constant in some resample.

    Raises:
        ValueError: The lengths differ.
    """
    first, second = _paired(x, y, np.float64)
    left, right = _standardised(first), _standardised(second)
    return index_bootstrap(lambda rows: _pearson(multiplicities(rows), left, right), left.size, draws)


def spearman_stderr(x: ArrayLike, y: ArrayLike, draws: int = 10_000) -> float | None:
    """Standard error of Spearman's correlation; as `pearson_stderr`, but each resample of pairs is ranked anew."""
    first, second = _paired(x, y, np.float64)
    left, right = _groups(first), _groups(second)
    return index_bootstrap(lambda rows: _spearman(multiplicities(rows), left, right), left.size, draws)


def _paired(x: ArrayLike, y: ArrayLike, kind: type) -> tuple[NDArray[Any], NDArray[Any]]:
    left: NDArray[Any] = np.asarray(x, kind).ravel()
    right: NDArray[Any] = np.asarray(y, kind).ravel()
    if left.shape != right.shape:
        raise ValueError(f"{left.size} labels but {right.size} predictions; give one of each per sample")
    return left, right


def multiplicities(rows: Indices) -> Floats:
    """How often each resample holds each sample, `[r n]`, from the resamples' indices `[r n]`."""
    replicates, n = rows.shape
    flat = np.bincount((rows + n * np.arange(replicates)[:, None]).ravel(), minlength=replicates * n)
    return flat.reshape(replicates, n).astype(np.float64)


def _standardised(values: Floats) -> Floats:
    """Values with zero mean and unit spread, against cancellation in sums of squares; zeros if all are equal."""
    if values.size == 0 or np.ptp(values) == 0:
        return np.zeros_like(values)
    return np.asarray((values - values.mean()) / values.std())


def _pearson(weights: Floats, x: Floats, y: Floats) -> Floats:
    """Correlation of standardised samples `[n]`, each taken as often as `weights` `[r n]` says."""
    samples = np.maximum(weights.sum(axis=1), 1)
    mean_x, mean_y, xx, yy, xy = (weights @ np.stack([x, y, x * x, y * y, x * y], axis=1)).T / samples
    return _ratio(xy - mean_x * mean_y, xx - mean_x**2, yy - mean_y**2, smallest=1e-12)


def _groups(values: Floats) -> Indices:
    """Index of each sample's value among the sorted distinct values, `[n]`."""
    return np.unique(values, return_inverse=True)[1]


def _spearman(weights: Floats, x: Indices, y: Indices) -> Floats:
    """Rank correlation of samples with distinct values `x` and `y` `[n]`, each taken as often as `weights` says."""
    left, right = (_centred_ranks(weights, side) for side in (x, y))
    weighted = weights * left
    first, covariance = (np.einsum("rn,rn->r", weighted, side) for side in (left, right))
    return _ratio(covariance, first, np.einsum("rn,rn,rn->r", weights, right, right), smallest=0.0)


def _centred_ranks(weights: Floats, group: Indices) -> Floats:
    """Mean rank of each sample within its resample, minus the mean of all ranks, `[r n]`."""
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max(initial=-1) + 1))
    sizes = np.add.reduceat(weights[:, order], starts, axis=1) if group.size else weights
    ranks = sizes.cumsum(axis=1) - (sizes - 1) / 2 - (weights.sum(axis=1, keepdims=True) + 1) / 2
    return np.asarray(ranks[:, group])


def _ratio(covariance: Floats, first: Floats, second: Floats, smallest: float) -> Floats:
    """Covariance over the root of both variances; NaN where a variance is not above `smallest`."""
    defined = (first > smallest) & (second > smallest)
    scale = np.sqrt(np.where(defined, first * second, 1.0))
    return np.where(defined, np.clip(covariance / scale, -1.0, 1.0), np.nan)

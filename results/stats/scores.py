"""Metrics as functions of sums over samples, which is all that a paired bootstrap needs.

Perplexity, accuracy, Matthews correlation and the others are each a function of column sums over the rows of a cell's
predictions, so that a resample is one row of weights and a thousand resamples are one matrix product. Which function
gives a metric is not taken on trust: it is used only where it reproduces the number in the record.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..record import Metric
from .agreement import f1, matthews
from .statistics import Floats

Row: TypeAlias = Mapping[str, Any]
REPRODUCED = 1e-6
"""Largest relative difference between a metric and what its samples give."""


@dataclass(frozen=True)
class SampleScores:
    """One cell's metric, sample by sample.

    Attributes:
        columns: `[n m]`, what is summed.
        value: From sums `[.. m]` to the metric `[..]`.
        labels: What identifies each sample; equal for two cells that were measured on the same samples.
    """

    columns: Floats
    value: Callable[[Floats], Floats]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.columns)

    def resampled(self, weights: Floats) -> Floats:
        """The metric of each resample, given how often it holds each sample, `[r n]`."""
        return self.value(weights @ self.columns)


def sample_scores(metric: Metric, rows: Sequence[Row]) -> SampleScores | None:
    """The metric sample by sample; None where nothing known here reproduces it from the predictions.

    Args:
        metric: A metric of the record.
        rows: The cell's predictions, as kept in `samples/`.
    """
    if metric.value is None or not math.isfinite(metric.value) or metric.at:
        return None
    for part in _parts(rows):
        for make in (_NAMED.get(_stem(metric.name)), _mean_of(metric.name)):
            made = make(part) if make and part else None
            if made is None:
                continue
            columns, value = made
            with np.errstate(all="ignore"):
                reproduced = float(value(columns.sum(axis=0)))
            if math.isclose(reproduced, metric.value, rel_tol=REPRODUCED, abs_tol=REPRODUCED):
                return SampleScores(columns, value, tuple(_label(row, i) for i, row in enumerate(part)))
    return None


def _parts(rows: Sequence[Row]) -> list[Sequence[Row]]:
    """All rows, and those of each split where there are several."""
    splits = list(dict.fromkeys(row.get("split") for row in rows))
    return [rows, *([row for row in rows if row.get("split") == split] for split in splits if len(splits) > 1)]


def _stem(name: str) -> str:
    """The name without the suffix of a split, such as `accuracy` of `accuracy_mismatched`."""
    return next((known for known in _NAMED if name == known or name.startswith(f"{known}_")), name)


def _label(row: Row, index: int) -> str:
    parts = [f"{key}={row[key]}" for key in ("id", "split", "row", "document", "label", "answer") if key in row]
    return " ".join(parts) or str(index)


_Made: TypeAlias = "tuple[Floats, Callable[[Floats], Floats]] | None"


def _numbers(rows: Sequence[Row], *keys: str) -> Floats | None:
    """Columns `[n k]`; None where a row lacks one or has no number there."""
    values = [[row.get(key) for key in keys] for row in rows]
    if any(not isinstance(value, int | float) for row in values for value in row):
        return None
    return np.asarray(values, np.float64)


def _ratio(top: str, bottom: str, function: Callable[[Floats], Floats]) -> Callable[[Sequence[Row]], _Made]:
    def make(rows: Sequence[Row]) -> _Made:
        columns = _numbers(rows, top, bottom)
        return None if columns is None else (columns, lambda sums: function(sums[..., 0] / sums[..., 1]))

    return make


def _mean_of(name: str) -> Callable[[Sequence[Row]], _Made]:
    def make(rows: Sequence[Row]) -> _Made:
        column = _numbers(rows, name)
        return None if column is None else _mean(column[:, 0])

    return make


def _mean(values: Floats) -> _Made:
    columns = np.stack([values, np.ones_like(values)], axis=1)
    return columns, lambda sums: sums[..., 0] / sums[..., 1]


def _accuracy(rows: Sequence[Row]) -> _Made:
    correct = _numbers(rows, "correct")
    if correct is not None:
        return _mean(correct[:, 0])
    pairs = _numbers(rows, "label", "prediction")
    return None if pairs is None else _mean((pairs[:, 0] == pairs[:, 1]).astype(np.float64))


def _of_counts(function: Callable[[Floats], Floats]) -> Callable[[Sequence[Row]], _Made]:
    def make(rows: Sequence[Row]) -> _Made:
        pairs = _numbers(rows, "label", "prediction")
        if pairs is None or not np.isin(pairs, (0, 1)).all():
            return None
        return np.eye(4)[(2 * pairs[:, 0] + pairs[:, 1]).astype(int)], function

    return make


def _correlation(ranked: bool) -> Callable[[Sequence[Row]], _Made]:
    """Pearson's correlation, or that of ranks; ranks are those of all samples, resampled or not."""

    def make(rows: Sequence[Row]) -> _Made:
        pairs = _numbers(rows, "label", "prediction")
        if pairs is None or len(pairs) < 2:
            return None
        if ranked:
            from scipy.stats import rankdata

            pairs = rankdata(pairs, axis=0)
        x, y = (pairs - pairs.mean(axis=0)).T
        return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1), _pearson_of_sums

    return make


def _pearson_of_sums(sums: Floats) -> Floats:
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    return np.asarray((xy - x * y / n) / np.sqrt((xx - x * x / n) * (yy - y * y / n)))


_NAMED: Mapping[str, Callable[[Sequence[Row]], _Made]] = {
    "perplexity": _ratio("nll_nats", "tokens", np.exp),
    "word_perplexity": _ratio("nll_nats", "words", np.exp),
    "bits_per_byte": _ratio("nll_nats", "bytes", lambda nats: nats / math.log(2)),
    "accuracy": _accuracy,
    "matthews": _of_counts(matthews),
    "f1": _of_counts(f1),
    "pearson": _correlation(ranked=False),
    "spearman": _correlation(ranked=True),
}

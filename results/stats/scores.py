"""Metrics as functions of sums over samples, for a paired bootstrap.

Perplexity, accuracy, Matthews correlation and other metrics are functions of column sums over the rows of a cell's
predictions. A resample is then one row of weights, and a thousand resamples are one matrix product. A function is used
only if it reproduces the metric's value in the record.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from ..record import UNSCORED, WITHOUT_BRANCH, Metric, Scalar
from .agreement import f1, matthews
from .statistics import Floats

Rows: TypeAlias = Sequence[Mapping[str, Any]]
"""A cell's predictions, as kept in `samples/`."""
REPRODUCED = 1e-6
"""Largest relative difference between a metric's value and the value computed from its samples."""


@dataclass(frozen=True)
class SampleScores:
    """One cell's metric, sample by sample.

    Attributes:
        columns: `[n m]`, the summands.
        value: From sums `[.. m]` to the metric `[..]`.
        labels: The identity of each sample; equal for two cells that were measured on the same samples.
    """

    columns: Floats
    value: Callable[[Floats], Floats]
    labels: tuple[str, ...]

    def resampled(self, weights: Floats) -> Floats:
        """The metric of each resample, from how often it holds each sample, `[r n]`."""
        return self.value(weights @ self.columns)


def sample_scores(metric: Metric, rows: Rows) -> SampleScores | None:
    """The metric sample by sample; None if no function here reproduces it from the predictions."""
    if metric.value is None or not math.isfinite(metric.value) or metric.at:
        return None
    name = metric.name.removesuffix(f"_{WITHOUT_BRANCH}")
    rows = [row for row in (rows if name == metric.name else split_branch(rows)[1]) if UNSCORED not in row]
    makers: list[Callable[[Rows], _Sums]] = [partial(_mean, key=name)]
    if stem := next((known for known in _MAKERS if f"{name}_".startswith(f"{known}_")), None):
        makers.insert(0, _MAKERS[stem])  # the rest of the name is a split, as in `accuracy_mismatched`
    for part in _parts(rows):
        for sums in (make(part) for make in makers if part):
            if sums is None:
                continue
            columns, value = sums
            with np.errstate(all="ignore"):
                reproduced = float(value(columns.sum(axis=0)))
            if math.isclose(reproduced, metric.value, rel_tol=REPRODUCED, abs_tol=REPRODUCED):
                return SampleScores(columns, value, tuple(_label(row, i) for i, row in enumerate(part)))
    return None


def _parts(rows: Rows) -> list[Rows]:
    """All rows, and those of each split if there are several."""
    splits = list(dict.fromkeys(row.get("split") for row in rows))
    return [rows, *([row for row in rows if row.get("split") == split] for split in splits if len(splits) > 1)]


def _label(row: Mapping[str, Any], index: int) -> str:
    parts = [f"{key}={row[key]}" for key in ("id", "split", "row", "document", "label", "answer") if key in row]
    return " ".join(parts) or str(index)


NOT_PAIRED: Mapping[str, Scalar] = {"paired_by": "none", "paired_digest": "none"}


def stated_pairing(metric: Metric | None, rows: Rows, fingerprint: str) -> Mapping[str, Scalar]:
    """What a paired comparison of a record's main metric pairs, as the record states it.

    `paired_by` is `documents`, or `none` where no score of single documents gives the metric, as for times.
    `paired_digest` hashes the data's fingerprint and the documents' identities: two records pair if theirs are equal.
    """
    scores = sample_scores(metric, rows) if metric else None
    if scores is None or len(scores.labels) < 2:
        return NOT_PAIRED
    digest = hashlib.sha256("\n".join((fingerprint, *scores.labels)).encode()).hexdigest()
    return {"paired_by": "documents", "paired_digest": digest[:16]}


def split_branch(rows: Rows) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Predictions of a model, and of the same hybrid without its linear branch; the second are empty for others."""
    own = [{key: value for key, value in row.items() if key != WITHOUT_BRANCH} for row in rows]
    kept = all(WITHOUT_BRANCH in row for row in rows)
    return own, [{**one, **row[WITHOUT_BRANCH]} for one, row in zip(own, rows, strict=True)] if kept else []


_Sums: TypeAlias = tuple[Floats, Callable[[Floats], Floats]] | None
"""Columns `[n m]` and the function of their sums; None if the rows lack what the metric is computed from."""


def _numbers(rows: Rows, *keys: str) -> Floats | None:
    """Columns `[n k]`; None if a row lacks a key or has no number there."""
    values = [[row.get(key) for key in keys] for row in rows]
    if any(not isinstance(value, int | float) for row in values for value in row):
        return None
    return np.asarray(values, np.float64)


def _ratio(rows: Rows, top: str, bottom: str, function: Callable[[Floats], Floats]) -> _Sums:
    columns = _numbers(rows, top, bottom)
    return None if columns is None else (columns, lambda sums: function(sums[..., 0] / sums[..., 1]))


def _mean(rows: Rows, key: str) -> _Sums:
    column = _numbers(rows, key)
    return None if column is None else _mean_of(column[:, 0])


def _mean_of(values: Floats) -> _Sums:
    return np.stack([values, np.ones_like(values)], axis=1), lambda sums: sums[..., 0] / sums[..., 1]


def _accuracy(rows: Rows) -> _Sums:
    if correct := _mean(rows, "correct"):
        return correct
    pairs = _numbers(rows, "label", "prediction")
    return None if pairs is None else _mean_of((pairs[:, 0] == pairs[:, 1]).astype(np.float64))


def _of_counts(rows: Rows, function: Callable[[Floats], Floats]) -> _Sums:
    """A function of confusion counts, for labels and predictions of 0 and 1."""
    pairs = _numbers(rows, "label", "prediction")
    if pairs is None or not np.isin(pairs, (0, 1)).all():
        return None
    return np.eye(4)[(2 * pairs[:, 0] + pairs[:, 1]).astype(int)], function


def _correlation(rows: Rows, ranked: bool) -> _Sums:
    """Pearson's correlation of values or of ranks. Ranks are taken once, among all samples, and kept in resamples."""
    pairs = _numbers(rows, "label", "prediction")
    if pairs is None or len(pairs) < 2:
        return None
    if ranked:
        from scipy.stats import rankdata

        pairs = rankdata(pairs, axis=0)
    x, y = (pairs - pairs.mean(axis=0)).T
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1), _pearson_of_sums


def _pearson_of_sums(sums: Floats) -> Floats:
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    return np.asarray((xy - x * y / n) / np.sqrt((xx - x * x / n) * (yy - y * y / n)))


_MAKERS: Mapping[str, Callable[[Rows], _Sums]] = {
    "perplexity": partial(_ratio, top="nll_nats", bottom="tokens", function=np.exp),
    "word_perplexity": partial(_ratio, top="nll_nats", bottom="words", function=np.exp),
    "bits_per_byte": partial(_ratio, top="nll_nats", bottom="bytes", function=lambda nats: nats / math.log(2)),
    "accuracy": _accuracy,
    "matthews": partial(_of_counts, function=matthews),
    "f1": partial(_of_counts, function=f1),
    "pearson": partial(_correlation, ranked=False),
    "spearman": partial(_correlation, ranked=True),
}

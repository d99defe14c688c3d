"""Prompts of vectors, a model's answers in batches, and the share of right answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from ...adapters.base import Adapter, Examples
from ...results.record import Metric, Scalar
from ..base import Row
from ..heavy import NDArray, Tensor, np, torch


def interleaved_vectors(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float32]:
    """The prompt `x1 y1 x2 ... xk` as vectors `[rows, 2 points - 1, d]`; y is the first number of its vector.

    Args:
        x: Inputs `[rows, points, d]`.
        y: Answers `[rows, points]`; the prompt leaves out the last one, which the model must give.
    """
    rows, points, d = x.shape
    vectors = np.zeros((rows, 2 * points - 1, d), np.float32)
    vectors[:, ::2] = x
    vectors[:, 1::2, 0] = y[:, :-1]
    return vectors


def vector_examples(vectors: NDArray[np.float32], answers: NDArray[Any], ignored: float) -> Examples:
    """Interleaved vectors with the answer as the target at each x, and `ignored` as the target at each y."""
    targets = np.full(vectors.shape[:2], ignored, answers.dtype)
    targets[:, ::2] = answers
    return Examples(vectors, targets)


def in_batches(
    adapter: Adapter, call: Callable[[Tensor], Tensor], inputs: NDArray[Any], batch_size: int
) -> NDArray[Any]:
    """The results of `call` on the rows of `inputs`, in batches of at most `batch_size` on the adapter's device."""
    starts = range(0, len(inputs), batch_size)
    batches = (torch.as_tensor(inputs[start : start + batch_size], device=adapter.device) for start in starts)
    return np.concatenate([call(batch).cpu().numpy() for batch in batches])


def predicted_tokens(adapter: Adapter, tokens: NDArray[np.int32], batch_size: int) -> NDArray[np.int64]:
    """The likeliest next token at each position of `tokens` `[rows, n]`."""
    return in_batches(adapter, lambda ids: adapter.logits(ids.long()).argmax(dim=-1), tokens, batch_size)


def predicted_by_length(
    adapter: Adapter, tokens: NDArray[np.int32], lengths: NDArray[np.int32], batch_size: int
) -> NDArray[np.int64]:
    """`predicted_tokens` for sequences of `lengths` `[rows]`: a batch has sequences of one length and no padding."""
    predicted = np.zeros(tokens.shape, np.int64)
    for length in np.unique(lengths).tolist():
        same = lengths == length
        predicted[same, :length] = predicted_tokens(adapter, tokens[same, :length], batch_size)
    return predicted


def right_tokens(row: Row) -> tuple[int, int]:
    """How many of a row's `predictions` equal its `answers`, and the number of answers."""
    return sum(a == p for a, p in zip(row["answers"], row["predictions"], strict=True)), len(row["answers"])


def share(
    name: str,
    right: Sequence[float] | NDArray[Any],
    of: Sequence[int],
    higher_is_better: bool | None,
    at: Mapping[str, Scalar] | None = None,
) -> Metric:
    """The share of right answers, or the mean over answers of another quantity, from sums over each sequence.

    Args:
        name: Name of the metric.
        right: Sum over the answers of each sequence.
        of: Number of answers of each sequence; sequences without answers are left out.
        higher_is_better: Direction; None for a reference.
        at: Coordinates.

    Returns:
        The metric; `n` is the number of sequences. Its standard error is that of a ratio of means, to first order,
        clustered by sequence, as the answers of one sequence depend on each other.
    """
    counts = np.asarray(of, np.float64)
    sums = np.asarray(right, np.float64)[counts > 0]
    counts = counts[counts > 0]
    n, total = len(counts), counts.sum()
    value = float(sums.sum() / total)
    residuals = sums - value * counts
    stderr = None if n < 2 else float(math.sqrt(n / (n - 1) * np.square(residuals).sum()) / total)
    return Metric(name, value, "1", higher_is_better, stderr, n, at or {})


def shares_by(
    name: str, rows: Sequence[Row], coordinates: Mapping[str, str], right: Callable[[Row], tuple[int, int]]
) -> dict[tuple[int, ...], Metric]:
    """The share of right answers at each setting, by the values of the setting.

    Args:
        name: Name of the metrics.
        rows: Predictions.
        coordinates: Keys of a row that hold its setting, by the names of the metrics' coordinates.
        right: Gives the number of right answers of a row, and the number of its answers.
    """

    def setting(row: Row) -> tuple[int, ...]:
        return tuple(row[key] for key in coordinates.values())

    found = {}
    for values, same in groupby(sorted(rows, key=setting), setting):
        sums, of = zip(*map(right, same), strict=True)
        found[values] = share(name, sums, of, True, dict(zip(coordinates, values, strict=True)))
    return found


def mean_over_settings(name: str, metrics: Sequence[Metric]) -> Metric:
    """The mean of one metric over settings that were sampled independently, each with the same weight."""
    values = [metric.value for metric in metrics if metric.value is not None]
    errors = [metric.stderr for metric in metrics if metric.stderr is not None]
    stderr = math.sqrt(sum(error**2 for error in errors)) / len(values) if len(errors) == len(metrics) else None
    return Metric(name, sum(values) / len(values), "1", True, stderr, sum(metric.n for metric in metrics))


def doubling(last: int) -> list[int]:
    """0, 1, 2, 4 and so on below `last`, and `last`: the points of a learning curve."""
    return [0, *(2**i for i in range(last.bit_length()) if 2**i < last), last] if last else [0]

"""What tasks with generated data share: splits drawn from a seed, their fingerprint, and standard errors by sequence.

A split is a frozen dataclass whose fields are arrays with one row for each sequence.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ...adapters.base import Adapter, Examples, ModelShape
from ...results.record import DataIdentity, Metric, Scalar
from ..base import TaskData

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Split = TypeVar("Split")
Draw = Callable[["np.random.Generator", int], Split]
"""Draws that many sequences."""


class Sizes(Protocol):
    """Settings that say how many sequences each split has."""

    @property
    def train_samples(self) -> int:
        """Training sequences."""
        ...

    @property
    def validation_samples(self) -> int:
        """Validation sequences."""
        ...

    @property
    def test_samples(self) -> int:
        """Test sequences."""
        ...


SPLITS = ("test", "validation", "train")
MOST_ROUNDS = 100


def draw_splits(
    parts: Mapping[str, Sequence[tuple[Draw[Split], int]]],
    seed: int,
    identity: Callable[[Split], NDArray[Any]],
) -> dict[str, Split]:
    """Splits that share nothing, each from its own child of the seed.

    The test split is drawn first and the training split last, and what an earlier split holds is drawn anew in a later
    one. So a larger training split leaves the others as they were. Repeats within a split are left in it.

    Args:
        parts: What draws the parts of each split, by the names in `SPLITS`, and how many rows of each.
        seed: Seed of the data.
        identity: What no two splits may share, one row of an array for each sequence.

    Raises:
        ValueError: There are too few different sequences.
    """
    import numpy as np

    taken: set[bytes] = set()
    splits: dict[str, Split] = {}
    for name, child in zip(SPLITS, np.random.SeedSequence(seed).spawn(len(SPLITS)), strict=True):
        rng = np.random.default_rng(child)
        splits[name] = joined([_draw_new(draw, rng, rows, identity, taken, name) for draw, rows in parts[name]])
        if name != SPLITS[-1]:
            taken.update(_digests(identity(splits[name])))
    return splits


def whole_splits(draw: Draw[Split], sizes: Sizes) -> dict[str, list[tuple[Draw[Split], int]]]:
    """Parts for `draw_splits` where each split is drawn alike and as one."""
    return {name: [(draw, getattr(sizes, f"{name}_samples"))] for name in SPLITS}


def _draw_new(
    draw: Draw[Split],
    rng: np.random.Generator,
    rows: int,
    identity: Callable[[Split], NDArray[Any]],
    taken: set[bytes],
    name: str,
) -> Split:
    """As many rows as asked for, none of which is in `taken`."""
    import numpy as np

    parts: list[Split] = []
    missing = rows
    for _ in range(MOST_ROUNDS):
        drawn = draw(rng, missing)
        new = [i for i, digest in enumerate(_digests(identity(drawn))) if digest not in taken]
        parts.append(drawn if len(new) == missing else rows_of(drawn, np.array(new, np.int64)))
        missing -= len(new)
        if not missing:
            return joined(parts)
    raise ValueError(
        f"{name} lacks {missing} of {rows} sequences that are in no other split after {MOST_ROUNDS} draws; "
        "ask for fewer, or for longer ones"
    )


def _digests(rows: NDArray[Any]) -> Iterator[bytes]:
    return (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows)


def rows_of(split: Split, rows: NDArray[np.int64] | slice) -> Split:
    """Some rows of a split."""
    return replace(split, **{name: array[rows] for name, array in vars(split).items()})  # type: ignore[type-var]


def generated_data(
    shape: ModelShape, splits: Mapping[str, Split], to_examples: Callable[[Split], Examples], limit: int | None
) -> TaskData:
    """The splits as a task loads them; `limit` keeps that many test rows."""
    train, validation = (to_examples(splits[name]) for name in ("train", "validation"))
    return TaskData(shape, rows_of(splits["test"], slice(limit)), train, validation)


def joined(parts: Sequence[Split]) -> Split:
    """The rows of several splits, one after another."""
    import numpy as np

    if len(parts) == 1:
        return parts[0]
    columns = {name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])}
    return replace(parts[0], **columns)  # type: ignore[type-var]


def taking_turns(sizes: Sequence[int]) -> NDArray[np.int64]:
    """The order in which rows of parts that follow each other take turns: the first of each part, the second, ..."""
    import numpy as np

    place = np.concatenate([np.arange(size) for size in sizes])
    return np.argsort(place, kind="stable")


def identity_of(name: str, version: str, splits: Mapping[str, Any], details: Mapping[str, Scalar]) -> DataIdentity:
    """The generator and a hash of all that it makes."""
    content = hashlib.sha256()
    for split in sorted(splits):
        for column, array in sorted(vars(splits[split]).items()):
            content.update(f"{split}.{column} {array.dtype.str} {array.shape}".encode())
            content.update(array.tobytes())
    rows = {split: len(next(iter(vars(arrays).values()))) for split, arrays in splits.items()}
    return DataIdentity(name, version, content.hexdigest(), "generated", rows, details)


def predicted_tokens(adapter: Adapter, tokens: NDArray[np.int32], batch_size: int) -> NDArray[np.int64]:
    """The likeliest next token at each position of `tokens` `[rows, n]`."""
    import numpy as np
    import torch

    found = []
    for start in range(0, len(tokens), batch_size):
        batch = torch.as_tensor(tokens[start : start + batch_size], dtype=torch.long, device=adapter.device)
        found.append(adapter.logits(batch).argmax(dim=-1).cpu().numpy())
    return np.concatenate(found)


def interleaved_vectors(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float32]:
    """The prompt `x1 y1 x2 ... xk` as vectors `[rows, 2 points - 1, d]`; y stands in the first place, zeros after it.

    Args:
        x: Inputs `[rows, points, d]`.
        y: Answers `[rows, points]`; the last one is left out, as it is asked for.
    """
    import numpy as np

    rows, points, d = x.shape
    vectors = np.zeros((rows, 2 * points - 1, d), np.float32)
    vectors[:, ::2] = x
    vectors[:, 1::2, 0] = y[:, :-1]
    return vectors


def sequence_outputs(adapter: Adapter, vectors: NDArray[np.float32], batch_size: int) -> NDArray[np.float32]:
    """A model's outputs `[rows, n, o]` at each position of `vectors` `[rows, n, i]`."""
    import numpy as np
    import torch

    found = []
    for start in range(0, len(vectors), batch_size):
        batch = torch.as_tensor(vectors[start : start + batch_size], device=adapter.device)
        found.append(adapter.sequence_outputs(batch).cpu().numpy())
    return np.concatenate(found)


def share(
    name: str,
    right: Sequence[float],
    of: Sequence[int],
    higher_is_better: bool | None,
    at: Mapping[str, Scalar] | None = None,
) -> Metric:
    """What share of all answers is right, or the mean of another quantity that sequences give as a sum over answers.

    Args:
        name: Name of the metric.
        right: Sum over the answers of each sequence.
        of: Answers of each sequence; sequences without any are left out.
        higher_is_better: Direction; None for a reference.
        at: Coordinates.

    Returns:
        The metric with its standard error clustered by sequence, as answers of one sequence depend on each other: that
        of a ratio of means, to first order. `n` is the number of sequences.
    """
    import numpy as np

    counts = np.asarray(of, np.float64)
    sums = np.asarray(right, np.float64)[counts > 0]
    counts = counts[counts > 0]
    n, total = len(counts), counts.sum()
    value = float(sums.sum() / total)
    residuals = sums - value * counts
    stderr = None if n < 2 else float(math.sqrt(n / (n - 1) * np.square(residuals).sum()) / total)
    return Metric(name, value, "1", higher_is_better, stderr, n, at or {})


def mean_over_settings(name: str, metrics: Sequence[Metric], higher_is_better: bool | None) -> Metric:
    """The mean of one metric over settings that were sampled apart, each of the same weight."""
    values = [metric.value for metric in metrics if metric.value is not None]
    errors = [metric.stderr for metric in metrics]
    known = [error for error in errors if error is not None]
    stderr = math.sqrt(sum(error**2 for error in known)) / len(values) if len(known) == len(errors) else None
    n = sum(metric.n for metric in metrics)
    return Metric(name, sum(values) / len(values), "1", higher_is_better, stderr, n)


def doubling(last: int) -> list[int]:
    """0, 1, 2, 4 and so on below `last`, and `last`: where a learning curve is shown."""
    return [0, *(2**i for i in range(last.bit_length()) if 2**i < last), last] if last else [0]

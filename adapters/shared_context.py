"""Predictions for rows of tokens that begin alike: what they have in common is read once, then each goes on by itself.

A task with several answers to a question asks for one row per answer. The question is read once, and the answers as a
batch from copies of the state that it leaves, which is a KV cache or the sums of linear attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import TypeAlias, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .base import DecodeState

Item = TypeVar("Item")
Row: TypeAlias = tuple[int, ...]
"""Token ids of one sequence."""

SHORTEST = 8
"""Fewest common tokens that are read apart: a pass over fewer costs about what it saves."""


Read: TypeAlias = Callable[
    [Int[Tensor, "b n"], Tensor | None, DecodeState | None, int], tuple[Float[Tensor, "b last v"], DecodeState]
]
"""Reads tokens, with a mask of padding on their left, after those in a state; gives the last logits and the new state.

The last argument is the number of tokens at the end whose logits are wanted.
"""


@dataclass(frozen=True)
class Beginning:
    """Rows that begin alike.

    Attributes:
        length: Tokens that all of them begin with.
        rows: The rows, in the order of their tokens.
    """

    length: int
    rows: tuple[Row, ...]

    @property
    def tokens(self) -> Row:
        """The tokens that all rows begin with."""
        return self.rows[0][: self.length]


def beginnings(scored: Mapping[Row, int]) -> list[Beginning]:
    """Groups of rows that begin alike, the longest beginnings first; a row that shares too little is alone.

    A row joins its neighbour's group if that saves tokens: then every row of the group is read from the new common
    length on.

    Args:
        scored: For each row, how many of its last predictions are wanted. A beginning ends where these start.
    """
    found: list[Beginning] = []
    for row in sorted(scored):
        before_scores = len(row) - scored[row] + 1
        if found:
            group = found[-1]
            common = min(_common(group.rows[-1], row), group.length, before_scores)
            if common >= SHORTEST and len(group.rows) * common > (len(group.rows) - 1) * group.length:
                found[-1] = Beginning(common, (*group.rows, row))
                continue
        found.append(Beginning(before_scores, (row,)))
    return sorted(found, key=lambda group: (-group.length, group.tokens))


@dataclass(frozen=True)
class Ending:
    """What a row has after its beginning.

    Attributes:
        row: The whole row.
        place: Place of its beginning in the batch.
        start: Length of the beginning.
        scored: How many of its last predictions are wanted.
    """

    row: Row
    place: int
    start: int
    scored: int

    def __len__(self) -> int:
        return len(self.row) - self.start


@dataclass(frozen=True)
class SharedReader:
    """Reads groups of rows.

    Attributes:
        read: Reads tokens with the model.
        context_length: Longest row in tokens, padding included.
        device: Device of the inputs.
        pads: Whether the model takes padding; without it, only beginnings of one length share a batch.
    """

    read: Read
    context_length: int
    device: torch.device
    pads: bool

    def predictions(
        self, groups: Sequence[Beginning], scored: Mapping[Row, int], batch_size: int
    ) -> Iterator[tuple[Row, Float[Tensor, "n v"]]]:
        """Each row with logits that end with its last prediction and hold at least the wanted ones.

        Args:
            groups: Groups of rows, the longest beginnings first.
            scored: For each row, how many of its last predictions are wanted.
            batch_size: Beginnings in a batch. Endings in a batch are as many at most, or as many as take no more memory
                with their copies of states than the logits of `batch_size` whole rows.
        """
        runs = [groups] if self.pads else [list(run) for _, run in groupby(groups, lambda group: group.length)]
        for batch in (batch for run in runs for batch in in_batches(run, batch_size)):
            first, state = self._begin(batch)
            endings = [
                Ending(row, place, group.length, scored[row]) for place, group in enumerate(batch) for row in group.rows
            ]
            endings.sort(key=len, reverse=True)
            whole_bytes = batch_size * (batch[0].length + len(endings[0])) * first[0].nbytes
            left = [ending for ending in endings if len(ending)]
            yield from ((ending.row, first[ending.place, None]) for ending in endings[len(left) :])
            while left:
                fitting = _fitting(left, self.context_length)
                skipped = min(max(0, len(ending) - ending.scored) for ending in fitting)
                copy_bytes = state.bytes // len(batch) + (len(left[0]) - skipped) * first[0].nbytes
                taken = fitting[: max(batch_size, whole_bytes // copy_bytes)]
                yield from self._end(taken, first, state, skipped)
                left = left[len(taken) :]

    def _begin(self, batch: Sequence[Beginning]) -> tuple[Float[Tensor, "b v"], DecodeState]:
        """Logits after the beginnings, and the state."""
        width = batch[0].length
        inputs = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros(len(batch), width, dtype=torch.bool)
        for place, group in enumerate(batch):
            inputs[place, width - group.length :] = torch.tensor(group.tokens)
            mask[place, width - group.length :] = True
        padding = None if batch[-1].length == width else mask.to(self.device)
        logits, state = self.read(inputs.to(self.device), padding, None, 1)
        return logits[:, 0], state

    def _end(
        self, endings: Sequence[Ending], first: Float[Tensor, "b v"], state: DecodeState, skipped: int
    ) -> Iterator[tuple[Row, Float[Tensor, "n v"]]]:
        """The logits of some rows, given those after all beginnings; the first `skipped` after a beginning are left."""
        inputs = torch.zeros(len(endings), len(endings[0]), dtype=torch.long)
        for index, ending in enumerate(endings):
            inputs[index, : len(ending)] = torch.tensor(ending.row[ending.start :])
        places = torch.tensor([ending.place for ending in endings], device=self.device)
        width = inputs.shape[1]
        logits, _ = self.read(inputs.to(self.device), None, state.select(places, width), width - skipped)
        for own, ending in zip(logits, endings, strict=True):
            predicted = own[: len(ending) - skipped]
            is_whole = ending.scored <= len(predicted)
            yield ending.row, predicted if is_whole else torch.cat([first[ending.place, None], predicted])


def _fitting(endings: Sequence[Ending], context_length: int) -> list[Ending]:
    """The first endings that fit the context length when all are as long as the longest, which is the first."""
    width = len(endings[0])
    return list(takewhile(lambda ending: ending.start + width <= context_length, endings))


def _common(one: Row, other: Row) -> int:
    """Number of tokens that both begin with."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def in_batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Batches of consecutive items; the last may be smaller."""
    return (items[start : start + size] for start in range(0, len(items), size))

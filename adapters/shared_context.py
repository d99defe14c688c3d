"""Predictions for rows of tokens that begin alike: what they have in common is read once, then each goes on by itself.

A task with several answers to a question asks for one row per answer. The question is read once, and the answers as a
batch from copies of the state that it leaves, which is a KV cache or the sums of linear attention.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from typing import TypeAlias, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .base import DecodeState

Item = TypeVar("Item")
Row: TypeAlias = tuple[int, ...]
"""Token ids of one sequence."""

SHORTEST = 8
"""Fewest common tokens that are read apart: a pass over fewer costs about what it saves."""


Read: TypeAlias = Callable[
    [Int[Tensor, "b n"], Bool[Tensor, "b n"], DecodeState | None, Bool[Tensor, "b n"]],
    tuple[Float[Tensor, "wanted v"], DecodeState],
]
"""Reads tokens that follow those in a state: arguments and result are those of `AttentionModel.predictions`."""


@dataclass(frozen=True)
class Beginning:
    """Rows that begin alike, or one row.

    Attributes:
        length: Tokens that all rows begin with; for one row all its tokens.
        rows: The rows, in the order of their tokens.
    """

    length: int
    rows: tuple[Row, ...]

    @property
    def tokens(self) -> Row:
        """The tokens that all rows begin with."""
        return self.rows[0][: self.length]

    @property
    def is_shared(self) -> bool:
        """Whether there is more than one row."""
        return len(self.rows) > 1


def beginnings(scored: Mapping[Row, int]) -> list[Beginning]:
    """Groups of rows that begin alike, the longest beginnings first; a row that shares too little is alone.

    A row joins its neighbour's group if that saves tokens: then every row of the group is read from the new common
    length on.

    Args:
        scored: For each row, how many of its last predictions are wanted. A common beginning ends where these start.
    """
    found: list[Beginning] = []
    for row in sorted(scored):
        if found and (joined := _joined(found[-1], row, scored)):
            found[-1] = joined
        else:
            found.append(Beginning(len(row), (row,)))
    return sorted(found, key=lambda group: (-group.length, group.tokens))


def _joined(group: Beginning, row: Row, scored: Mapping[Row, int]) -> Beginning | None:
    """The group with one more row; None if reading them apart takes fewer tokens."""
    last = group.rows[-1]
    ends = (group.length, *(len(each) - scored[each] + 1 for each in (last, row)))
    common = min(*ends, sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(last, row, strict=False))))
    saved = (len(group.rows) - 1) * group.length
    is_better = common >= SHORTEST and len(group.rows) * common > saved
    return Beginning(common, (*group.rows, row)) if is_better else None


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

    @property
    def wanted(self) -> int:
        """How many of its own tokens have a prediction that is wanted."""
        return min(self.scored, len(self))


@dataclass(frozen=True)
class SharedReader:
    """Reads groups of rows.

    Attributes:
        read: Reads tokens with the model.
        device: Device of the inputs.
        pads: Whether the model takes padding on the left; without it, only beginnings of one length share a batch.
    """

    read: Read
    device: torch.device
    pads: bool

    def predictions(self, scored: Mapping[Row, int], batch_size: int) -> Iterator[tuple[Row, Float[Tensor, "n v"]]]:
        """Each row with the logits of its last predictions, as many as are wanted.

        Args:
            scored: For each row, how many of its last predictions are wanted.
            batch_size: Rows in a batch. There are more if they, with their states and the wanted logits, take no more
                memory than `batch_size` whole rows with a state, all logits and their log-probabilities.
        """
        groups = beginnings(scored)
        most = batch_size
        while groups:
            batch = groups[:most] if self.pads else _of_one_length(groups[:most])
            groups = groups[len(batch) :]
            logits, state = self._begin(batch, scored)
            yield from ((group.rows[0], own) for group, own in zip(batch, logits, strict=True) if not group.is_shared)
            endings = _endings(batch, scored)
            state_bytes, logits_bytes = state.bytes // len(batch), logits[0][0].nbytes
            longest = max((len(ending.row) for ending in endings), default=batch[0].length)
            half_bytes = batch_size * (longest * logits_bytes + state_bytes // 2)
            most = max(batch_size, half_bytes // max(1, state_bytes))
            while endings:
                sizes = [state_bytes + ending.wanted * logits_bytes for ending in endings]
                taken = endings[: max(batch_size, bisect(list(accumulate(sizes)), half_bytes))]
                endings = endings[len(taken) :]
                yield from self._end(taken, logits, state)

    def _begin(
        self, batch: Sequence[Beginning], scored: Mapping[Row, int]
    ) -> tuple[tuple[Float[Tensor, "_ v"], ...], DecodeState]:
        """The logits after each beginning, or all that are wanted of a row that is alone, and the state."""
        width = batch[0].length
        inputs = torch.zeros(len(batch), width, dtype=torch.long)
        real, wanted = (torch.zeros(len(batch), width, dtype=torch.bool) for _ in range(2))
        counts = [1 if group.is_shared else scored[group.rows[0]] for group in batch]
        for place, (group, count) in enumerate(zip(batch, counts, strict=True)):
            inputs[place, width - group.length :] = torch.tensor(group.tokens)
            real[place, width - group.length :] = True
            wanted[place, width - count :] = True
        logits, state = self._read(inputs, real, None, wanted)
        return torch.split(logits, counts), state

    def _end(
        self, endings: Sequence[Ending], first: Sequence[Float[Tensor, "_ v"]], state: DecodeState
    ) -> Iterator[tuple[Row, Float[Tensor, "n v"]]]:
        """The rows of some endings with their logits, given those after all beginnings."""
        unread = [ending for ending in endings if not len(ending)]
        yield from ((ending.row, first[ending.place]) for ending in unread)
        endings = endings[: len(endings) - len(unread)]
        if not endings:
            return
        width = len(endings[0])
        inputs = torch.zeros(len(endings), width, dtype=torch.long)
        real, wanted = (torch.zeros(len(endings), width, dtype=torch.bool) for _ in range(2))
        for index, ending in enumerate(endings):
            inputs[index, : len(ending)] = torch.tensor(ending.row[ending.start :])
            real[index, : len(ending)] = True
            wanted[index, len(ending) - ending.wanted : len(ending)] = True
        places = torch.tensor([ending.place for ending in endings], device=self.device)
        logits, _ = self._read(inputs, real, state.select(places, width), wanted)
        parts = torch.split(logits, [ending.wanted for ending in endings])
        for ending, own in zip(endings, parts, strict=True):
            yield ending.row, own if ending.scored == len(own) else torch.cat([first[ending.place], own])

    def _read(
        self, inputs: Tensor, real: Tensor, state: DecodeState | None, wanted: Tensor
    ) -> tuple[Tensor, DecodeState]:
        return self.read(inputs.to(self.device), real.to(self.device), state, wanted.to(self.device))


def _of_one_length(groups: Sequence[Beginning]) -> list[Beginning]:
    """The first groups that are as long as the first of all."""
    return list(takewhile(lambda group: group.length == groups[0].length, groups))


def _endings(batch: Sequence[Beginning], scored: Mapping[Row, int]) -> list[Ending]:
    """The endings of the rows that share a beginning, the longest first."""
    shared = [(place, group) for place, group in enumerate(batch) if group.is_shared]
    endings = [Ending(row, place, group.length, scored[row]) for place, group in shared for row in group.rows]
    return sorted(endings, key=len, reverse=True)


def in_batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Batches of consecutive items; the last may be smaller."""
    return (items[start : start + size] for start in range(0, len(items), size))

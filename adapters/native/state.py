"""The decode state of a model as transformers has it: whatever its cache holds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor, nn

from ..base import UnsupportedError


@dataclass
class Part:
    """The cache of some rows of a batch.

    Attributes:
        cache: The object that the model returned: keys and values, recurrent states, or both.
        mask: True at real tokens among those seen; None without padding.
        seen: Real tokens of each row so far.
    """

    cache: Any
    mask: Bool[Tensor, "b m"] | None
    seen: Int[Tensor, " b"]


@dataclass
class NativeState:
    """The state of a batch: one part for all rows, or a part for each row of a model that takes no padding.

    Attributes:
        parts: The parts, in the order of the rows.
        held: Tensors that layers hold themselves instead of in the cache, as those of RecurrentGemma do.
    """

    parts: list[Part]
    held: list[Tensor]

    @property
    def bytes(self) -> int:
        """Bytes of all tensors, those that several layers share once."""
        found = {each.data_ptr(): each.nbytes for part in self.parts for each in tensors_in(part.cache)}
        return sum(found.values()) + sum(each.nbytes for each in self.held)

    def select(self, rows: Int[Tensor, " r"], room: int) -> NativeState:
        """Copies of rows of the batch.

        Raises:
            UnsupportedError: Layers hold their state themselves, so there can be only one.
        """
        del room
        if self.held:
            raise UnsupportedError("layers of this model hold their state themselves, so it cannot be copied")
        if len(self.parts) > 1:
            return NativeState([copy.deepcopy(self.parts[int(row)]) for row in rows], self.held)
        part = copy.deepcopy(self.parts[0])
        batch = len(part.seen)
        _map_in_place(part.cache, lambda each: each[rows] if each.ndim and len(each) == batch else each)
        mask = None if part.mask is None else part.mask[rows]
        return NativeState([Part(part.cache, mask, part.seen[rows])], self.held)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in an object, in what it holds and in what that holds."""
    match value:
        case Tensor():
            yield value
        case dict():
            for part in value.values():
                yield from tensors_in(part)
        case list() | tuple():
            for part in value:
                yield from tensors_in(part)
        case _ if hasattr(value, "__dict__") and not isinstance(value, nn.Module | type):
            yield from tensors_in(vars(value))


def held_by_layers(model: nn.Module) -> list[Tensor]:
    """Tensors that modules keep between calls and that are neither parameters nor buffers."""
    return [each for part in model.modules() for each in vars(part).values() if isinstance(each, Tensor)]


def _map_in_place(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    match value:
        case Tensor():
            return function(value)
        case dict():
            value.update({key: _map_in_place(part, function) for key, part in value.items()})
        case list():
            value[:] = [_map_in_place(part, function) for part in value]
        case tuple():
            return tuple(_map_in_place(part, function) for part in value)
        case _ if hasattr(value, "__dict__") and not isinstance(value, nn.Module | type):
            _map_in_place(vars(value), function)
    return value

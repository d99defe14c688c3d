"""What a swapped model carries from token to token, in the shape that transformers' generation expects."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from ..attention.core import LayerState, state_bytes


class StateLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """The state of one attention layer: a KV cache, the sums of linear attention, or both.

    transformers hands keys and values to `update` before it calls the attention; they are passed through, and the
    attention then leaves its new state here.

    Attributes:
        state: What the attention core remembers; None before the first token.
        length: Tokens seen.
    """

    is_sliding = False
    is_compileable = False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.state: LayerState = None
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to prepare: states begin with the first token."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Counts the new tokens and gives their keys and values back."""
        self.length += key_states.shape[2]
        return key_states, value_states

    def get_mask_sizes(self, query_length: int | Tensor, *_: Any) -> tuple[int, int]:
        """Keys that a mask must cover, and where they begin; transformers 4.57 passes positions for the length."""
        tokens = query_length if isinstance(query_length, int) else query_length.shape[0]
        return self.length + tokens, 0

    def get_seq_length(self) -> int:
        """Tokens seen."""
        return self.length

    def get_max_length(self) -> int:
        """No bound."""
        return -1

    def get_max_cache_shape(self) -> int:
        """No bound; the name that transformers 4.57 uses."""
        return -1

    def reset(self) -> None:
        """Forgets everything."""
        self.state, self.length = None, 0

    def reorder_cache(self, beam_idx: Int[Tensor, " b"]) -> None:
        """Takes other rows, as beam search does."""
        self.state = select_rows(self.state, beam_idx)

    def batch_select_indices(self, indices: Int[Tensor, " b"]) -> None:
        """Keeps some rows."""
        self.state = select_rows(self.state, indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats every row."""
        rows = rows_of(self.state)
        if rows:
            self.state = select_rows(self.state, torch.arange(rows).repeat_interleave(repeats))

    def crop(self, *_: Any) -> None:
        """Refused.

        Raises:
            NotImplementedError: Always: sums over tokens cannot forget the last of them.
        """
        raise NotImplementedError("the state of linear attention cannot be cropped: it is a sum over the tokens seen")


class StateCache(Cache):
    """The states of all layers.

    Args:
        layers: How many layers the model has.

    Attributes:
        positions: Position of each token of the call under way; set before the model runs.
    """

    layers: list[StateLayer]  # type: ignore[assignment]

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[StateLayer() for _ in range(layers)])
        self.positions: Int[Tensor, "b n"] | None = None

    @property
    def bytes(self) -> int:
        """Bytes of all the tensors that decoding carries on."""
        return sum(state_bytes(layer.state) for layer in self.layers)


def select_rows(state: Any, index: Int[Tensor, " b"]) -> Any:
    """A state with the rows at `index`: every tensor in it has the batch as its first dimension."""
    if isinstance(state, Tensor):
        return state.index_select(0, index.to(state.device))
    if is_dataclass(state) and not isinstance(state, type):
        return replace(state, **{f.name: select_rows(getattr(state, f.name), index) for f in fields(state)})
    return state


def rows_of(state: Any) -> int:
    """Rows of the batch that a state is of; 0 before the first token."""
    if isinstance(state, Tensor):
        return len(state)
    if is_dataclass(state) and not isinstance(state, type):
        return max(rows_of(getattr(state, f.name)) for f in fields(state))
    return 0

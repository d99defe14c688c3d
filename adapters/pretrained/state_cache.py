"""The decode state of a swapped model, as a cache of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from ..attention.core import LayerState, map_tensors, select_rows, state_bytes


@dataclass(frozen=True)
class Packing:
    """The real tokens of a padded batch as one row, for all layers but attention.

    Attributes:
        real: False at padding.
        positions: Position of each token.
    """

    real: Bool[Tensor, "b n"]
    positions: Int[Tensor, "b n"]

    @property
    def mask(self) -> Bool[Tensor, "b n"] | None:
        """The mask that attention needs; None if no token sees padding, as it is on the right or nowhere."""
        return None if bool(self.real[:, 0].all()) else self.real

    def unpack(self, heads: Float[Tensor, "1 h t d"]) -> Float[Tensor, "b h n d"]:
        """Heads of the batch; those of padding are 0."""
        batch = heads.new_zeros(*self.real.shape, heads.shape[1], heads.shape[3])
        batch[self.real] = heads[0].transpose(0, 1)
        return batch.transpose(1, 2)

    def pack(self, heads: Float[Tensor, "b h n d"]) -> Float[Tensor, "1 h t d"]:
        """Heads of the real tokens."""
        return heads.transpose(1, 2)[self.real].transpose(0, 1)[None]


class StateLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """The state of one attention layer: a KV cache, the sums of linear attention, or both.

    transformers passes keys and values to `update` before it calls the attention; they are returned as they are, and
    the attention then stores its new state here.

    Attributes:
        state: State of the attention core; None before the first token.
        length: Tokens seen.
        positions: Position of each token of the present call; set before the model runs.
        packing: The batch of the present call if it reads real tokens only; set likewise.
    """

    is_sliding = False
    is_compileable = False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.state: LayerState = None
        self.length = 0
        self.positions: Int[Tensor, "b n"] | None = None
        self.packing: Packing | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Does nothing: states begin with the first token."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Counts the new tokens; returns their keys and values."""
        self.length += key_states.shape[2] if self.packing is None else self.packing.real.shape[1]
        return key_states, value_states

    def get_mask_sizes(self, query_length: int | Tensor, *_: Any) -> tuple[int, int]:
        """Number of keys that a mask must cover, and the first of them.

        `query_length` is a number of tokens, or in transformers 4.57 the tensor of their positions.
        """
        tokens = query_length if isinstance(query_length, int) else query_length.shape[0]
        return self.length + tokens, 0

    def get_seq_length(self) -> int:
        """Tokens seen."""
        return self.length

    def get_max_length(self) -> int:
        """-1: the state has no bound."""
        return -1

    get_max_cache_shape = get_max_length  # the name in transformers 4.57

    def reset(self) -> None:
        """Drops the state."""
        self.state, self.length = None, 0

    def batch_select_indices(self, indices: Int[Tensor, " b"]) -> None:
        """Selects rows of the batch."""
        self.state = map_tensors(self.state, lambda tensor: tensor.index_select(0, indices.to(tensor.device)))

    def reorder_cache(self, beam_idx: Int[Tensor, " b"]) -> None:
        """Selects the rows of the surviving beams."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats every row."""
        self.state = map_tensors(self.state, lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def crop(self, *_: Any) -> None:
        """Refuses to drop tokens.

        Raises:
            NotImplementedError: Always, as a sum over tokens cannot drop the last of them.
        """
        raise NotImplementedError("the state of linear attention cannot be cropped: it is a sum over the tokens seen")


class StateCache(Cache):
    """The states of all layers.

    Args:
        layers: Number of the model's layers.

    Attributes:
        seen: Real tokens of each row so far, which is the position of its next token; None before the first.
        packing: The batch of the present call if it reads real tokens only.
    """

    layers: list[StateLayer]  # type: ignore[assignment]

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[StateLayer() for _ in range(layers)])
        self.seen: Int[Tensor, " b"] | None = None
        self.packing: Packing | None = None

    @property
    def bytes(self) -> int:
        """Bytes of all tensors of the states."""
        return sum(state_bytes(layer.state) for layer in self.layers)

    def select(self, rows: Int[Tensor, " r"], room: int) -> StateCache:
        """Copies of rows of the batch, which are then to read `room` more tokens."""
        copied = StateCache(len(self.layers))
        copied.seen = None if self.seen is None else self.seen[rows]
        for layer, own in zip(copied.layers, self.layers, strict=True):
            layer.state, layer.length = select_rows(own.state, rows, room), own.length
        return copied


def state_layers(cache: Cache, layers: int) -> list[StateLayer]:
    """The states in `cache`; an empty cache of keys and values is turned into a cache of states, in place.

    The caller of the model keeps a reference to the cache, so it has to remain the same object.

    Args:
        cache: A cache of transformers.
        layers: Number of the model's layers.

    Raises:
        ValueError: Another attention has filled the cache.
    """
    if not cache.layers or not all(isinstance(layer, StateLayer) for layer in cache.layers):
        if cache.get_seq_length():
            raise ValueError(f"swapped attention cannot continue a filled {type(cache).__name__}; pass an empty one")
        cache.layers[:] = [StateLayer() for _ in range(layers)]
    return [layer for layer in cache.layers if isinstance(layer, StateLayer)]

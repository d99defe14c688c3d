"""The size of a decode state, read from its tensors and by the formula of each layer's attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...kernels.costs import linear_state_bytes
from ...kernels.hybrid.state import HybridState
from ...kernels.state import LinearState
from ..attention.core import AttentionCore, map_tensors
from ..attention.hybrid import HybridAttention
from ..attention.kv_cache import KVCache
from ..attention.linear import LinearAttention
from ..attention.position import ShortConvolution
from ..attention.recurrent_state import RecurrentState
from ..attention.softmax import NoAttention, SoftmaxAttention
from ..gated.attention import GatedAttention
from ..native.state import NativeState


@dataclass(frozen=True)
class StateSize:
    """The size of the attention's state.

    Attributes:
        live: Bytes of its tensors.
        expected: The same by formula; None where none is known.
        notes: Why no formula is known.
    """

    live: int
    expected: int | None
    notes: tuple[str, ...] = ()


def measured_size(cores: Sequence[AttentionCore], state: Any, tokens: int) -> StateSize:
    """The size of one row's state after `tokens` tokens without padding.

    Args:
        cores: The attention of each layer.
        state: The decode state of a model.
        tokens: Tokens that it has seen in one call.
    """
    if isinstance(state, NativeState):
        return StateSize(
            state.bytes, None, ("the state is what the model's own cache holds; its bytes were only read",)
        )
    states = layer_states(state)
    live = sum(map(_live_bytes, states))
    if len(states) != len(cores):
        note = f"the decode state has {len(states)} layers, of {len(cores)} with attention; its bytes were only read"
        return StateSize(live, None, (note,))
    expected = [_expected_bytes(core, each, tokens) for core, each in zip(cores, states, strict=True)]
    unknown = dict.fromkeys(type(core).__name__ for core, size in zip(cores, expected, strict=True) if size is None)
    if unknown:
        note = f"no formula is known for the state of {', '.join(unknown)}; its bytes were only read"
        return StateSize(live, None, (note,))
    return StateSize(live, sum(size or 0 for size in expected))


def layer_states(state: Any) -> list[Any]:
    """The state of each layer's attention in the decode state of a model."""
    if hasattr(state, "blocks"):
        return [block.attention for block in state.blocks]
    return [layer.state for layer in state.layers]


def _live_bytes(state: Any) -> int:
    """Bytes of the tensors of a layer's state, read from the tensors; each counts once."""
    sizes: dict[tuple[int, int], int] = {}

    def count(tensor: Tensor) -> Tensor:
        sizes[tensor.data_ptr(), tensor.nbytes] = tensor.nbytes
        return tensor

    map_tensors(state, count)
    return sum(sizes.values())


def _expected_bytes(core: AttentionCore, state: Any, tokens: int) -> int | None:
    """The size of one row's state after `tokens` tokens by formula, from the sizes of the layer; None if unknown.

    A cache holds keys and values of all tokens, or of a window's once it has seen two windows; sums do not grow; a
    hybrid holds keys, values and positions of a window's tokens, and the sums once a token has left the window. A
    recurrence with gates holds one matrix a head, and a convolution the inputs that its next output reads.
    """
    match core, state:
        case NoAttention(), None:
            return 0
        case SoftmaxAttention(), KVCache():
            return _bytes_of_cache(core.window, state, tokens)
        case LinearAttention(), LinearState():
            return _bytes_of_sums(core, state.kv.shape[-1])
        case HybridAttention(), HybridState():
            held = min(tokens, core.window)
            window = _bytes_of_tokens(held, state.keys, state.values) + held * state.positions.element_size()
            return window + (_bytes_of_sums(core, state.values.shape[-1]) if tokens > core.window else 0)
        case GatedAttention(), RecurrentState(sums=Tensor() as matrix):
            sums = math.prod(matrix.shape[1:]) * max(matrix.element_size(), torch.float32.itemsize)
            window = 0 if state.window is None else _bytes_of_cache(core.window, state.window, tokens)
            return sums + _bytes_of_tail(core.streams.convolution, state) + window
    return None


def _bytes_of_tail(convolution: ShortConvolution | None, state: RecurrentState) -> int:
    """The inputs that a convolution's next output reads beside its own token."""
    if convolution is None or state.tail is None:
        return 0
    channels, _, kernel_size = convolution.weight.shape
    return (kernel_size - 1) * channels * state.tail.element_size()


def _bytes_of_cache(window: int | None, cache: KVCache, tokens: int) -> int:
    held = tokens if window is None or tokens < 2 * window else window
    return _bytes_of_tokens(held, cache.keys, cache.values)


def _bytes_of_tokens(tokens: int, keys: Tensor, values: Tensor) -> int:
    each = (tensor.shape[1] * tensor.shape[-1] * tensor.element_size() for tensor in (keys, values))
    return tokens * sum(each)


def _bytes_of_sums(core: LinearAttention | HybridAttention, value_dim: int) -> int:
    key_map = core.key_map
    return linear_state_bytes(
        b=1, hk=key_map.heads, f=key_map.feature_dim, dv=value_dim, log_space=core.query_map.log_space
    )

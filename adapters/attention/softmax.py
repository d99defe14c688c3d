"""Softmax attention over all keys or over a window, and no attention as a control."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ...kernels.choice import KernelChoice
from ...kernels.softmax.attention import attention_scores, softmax_attention, softmax_attention_weights
from .core import Attended, AttentionCore, Heads, LayerState
from .kv_cache import KVCache


def softmax_weights(heads: Heads, causal: bool, window: int | None = None) -> Float[Tensor, "b h n n"]:
    """Softmax attention weights of these queries and keys, over all keys or over the last `window`."""
    return softmax_attention_weights(
        heads.q, heads.k, causal=causal, key_padding_mask=heads.key_padding_mask, scale=heads.scale, window=window
    )


def softmax_scores(heads: Heads, causal: bool) -> Float[Tensor, "b h n n"]:
    """The argument of softmax: q·k times its scale, minus infinity at keys that a query does not see."""
    return attention_scores(heads.q, heads.k, causal=causal, key_padding_mask=heads.key_padding_mask, scale=heads.scale)


class SoftmaxAttention(AttentionCore):
    """Softmax attention; its decode state is a KV cache, of fewer tokens than two windows if there is a window.

    Args:
        backend: Kernel, as in `kernels.softmax.attention.softmax_attention`.
        window: Keys that each query sees, its own included; None for all.
    """

    def __init__(self, backend: str = "auto", window: int | None = None) -> None:
        super().__init__()
        self.backend = backend
        self.window = window

    def attend(self, heads: Heads, state: LayerState, *, causal: bool, return_state: bool) -> Attended:
        """Softmax attention outputs over the cached tokens and these."""
        assert state is None or isinstance(state, KVCache)
        if return_state:
            seen = (state or KVCache.empty(heads.k)).append(heads.k, heads.v, heads.key_padding_mask)
        else:
            seen = KVCache(heads.k, heads.v, heads.key_padding_mask, heads.k.shape[2])
        result = softmax_attention(
            heads.q,
            seen.keys,
            seen.values,
            causal=causal,
            key_padding_mask=seen.mask,
            scale=heads.scale,
            window=self.window,
            backend=self.backend,
        )
        kept = seen.last(self.window) if return_state and self.window is not None else seen
        return result.output, kept, result.kernel

    def weights(self, heads: Heads, *, causal: bool) -> Float[Tensor, "b h n n"]:
        """Softmax attention weights."""
        return softmax_weights(heads, causal, self.window)


def kept_softmax(window: int | None = None) -> AttentionCore:
    """The softmax attention of a layer that a hybrid leaves as it is, with the layer's own window."""
    core = SoftmaxAttention(window=window)
    core.is_kept = True
    return core


class NoAttention(AttentionCore):
    """No attention: outputs and weights are zero, and there is no state."""

    def attend(self, heads: Heads, state: LayerState, *, causal: bool, return_state: bool) -> Attended:
        """Zeros."""
        del state, causal, return_state
        return torch.zeros_like(heads.q), None, KernelChoice("none", "torch")

    def weights(self, heads: Heads, *, causal: bool) -> Float[Tensor, "b h n n"]:
        """Zeros."""
        del causal
        return torch.zeros(*heads.q.shape[:3], heads.k.shape[2], device=heads.q.device)

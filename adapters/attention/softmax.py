"""Softmax attention over all keys or over a window, and no attention as a control."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ...kernels.choice import KernelChoice
from ...kernels.softmax.attention import attention_scores, softmax_attention, softmax_attention_weights
from .core import Attended, AttentionCore, Heads, LayerState, QueryHeads
from .kv_cache import KVCache


def softmax_weights(heads: Heads, causal: bool, window: int | None = None) -> Float[Tensor, "b h n n"]:
    """Softmax attention weights of these queries and keys, over all keys or over the last `window`."""
    return softmax_attention_weights(
        heads.q, heads.k, causal=causal, key_padding_mask=heads.key_padding_mask, scale=heads.scale, window=window
    )


def softmax_scores(heads: Heads, causal: bool) -> Float[Tensor, "b h n n"]:
    """The argument of softmax: q·k times its scale, minus infinity at keys that a query does not see."""
    return attention_scores(heads.q, heads.k, causal=causal, key_padding_mask=heads.key_padding_mask, scale=heads.scale)


def attend_to_cache(
    heads: Heads,
    cache: KVCache | None,
    *,
    causal: bool = True,
    window: int | None = None,
    backend: str = "auto",
    return_state: bool,
) -> tuple[QueryHeads, KVCache, KernelChoice]:
    """Softmax attention over the cached tokens and these, the new cache, and the kernel that ran.

    The cache of a window holds fewer tokens than two windows.
    """
    if return_state:
        seen = (cache or KVCache.empty(heads.k)).append(heads.k, heads.v, heads.key_padding_mask)
    else:
        seen = KVCache(heads.k, heads.v, heads.key_padding_mask, heads.k.shape[2])
    result = softmax_attention(
        heads.q,
        seen.keys,
        seen.values,
        causal=causal,
        key_padding_mask=seen.mask,
        scale=heads.scale,
        window=window,
        backend=backend,
    )
    return result.output, seen.last(window) if return_state and window is not None else seen, result.kernel


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
        return attend_to_cache(
            heads, state, causal=causal, window=self.window, backend=self.backend, return_state=return_state
        )

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

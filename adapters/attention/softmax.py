"""Softmax attention, over all keys or over a window of them, and no attention at all."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ...kernels.choice import KernelChoice
from ...kernels.dispatch import softmax_attention
from ...kernels.softmax.attention import attention_scores, softmax_attention_weights
from .core import AttentionCore, Heads, LayerState
from .kv_cache import KVCache


def softmax_weights(heads: Heads, causal: bool) -> Float[Tensor, "b h n n"]:
    """What softmax over all keys gives for these queries and keys."""
    return softmax_attention_weights(
        heads.q, heads.k, causal=causal, key_padding_mask=heads.key_padding_mask, scale=heads.scale
    )


def softmax_scores(heads: Heads, causal: bool) -> Float[Tensor, "b h n n"]:
    """What softmax is taken of: q·k times its scale, minus infinity at keys that a query does not see."""
    return attention_scores(heads.q, heads.k, causal=causal, key_padding_mask=heads.key_padding_mask, scale=heads.scale)


class SoftmaxAttention(AttentionCore):
    """Softmax attention; its decode state is a KV cache, bounded where there is a window.

    Args:
        backend: Kernel, as in `kernels.dispatch.softmax_attention`.
        window: Keys that each query sees, its own included; None for all.
    """

    def __init__(self, backend: str = "auto", window: int | None = None) -> None:
        super().__init__()
        self.backend = backend
        self.window = window

    def forward(self, heads: Heads, *, causal: bool) -> Float[Tensor, "b h n d"]:
        """Softmax attention outputs."""
        cache = KVCache(heads.k, heads.v, heads.key_padding_mask, heads.k.shape[2])
        return self._attend(self.phase_of_forward(), heads, cache, causal)

    def extend(self, heads: Heads, state: LayerState) -> tuple[Float[Tensor, "b h n d"], LayerState]:
        """Softmax attention outputs over the tokens cached and these, and the longer cache."""
        cache = KVCache.empty(heads.k) if state is None else state
        assert isinstance(cache, KVCache)
        cache = cache.append(heads.k, heads.v, heads.key_padding_mask)
        out = self._attend(self.phase_of_extend(state), heads, cache, causal=True)
        return out, cache if self.window is None else cache.last(self.window)

    def weights(self, heads: Heads, *, causal: bool) -> Float[Tensor, "b h n n"]:
        """Softmax attention weights."""
        return softmax_attention_weights(
            heads.q,
            heads.k,
            causal=causal,
            key_padding_mask=heads.key_padding_mask,
            scale=heads.scale,
            window=self.window,
        )

    def _attend(self, phase: str, heads: Heads, seen: KVCache, causal: bool) -> Tensor:
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
        self.record(phase, result.kernel)
        return result.output


class NoAttention(AttentionCore):
    """No attention: the output is zero, and so are the weights; there is no state."""

    def forward(self, heads: Heads, *, causal: bool) -> Float[Tensor, "b h n d"]:
        """Zeros."""
        del causal
        self.record(self.phase_of_forward(), KernelChoice("none", "torch"))
        return torch.zeros_like(heads.q)

    def extend(self, heads: Heads, state: LayerState) -> tuple[Float[Tensor, "b h n d"], LayerState]:
        """Zeros, and no state."""
        self.record(self.phase_of_extend(state), KernelChoice("none", "torch"))
        return torch.zeros_like(heads.q), None

    def weights(self, heads: Heads, *, causal: bool) -> Float[Tensor, "b h n n"]:
        """Zeros."""
        del causal
        return torch.zeros(*heads.q.shape[:3], heads.k.shape[2], device=heads.q.device)

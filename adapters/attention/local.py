"""Softmax attention over near tokens on both sides, as some layers of ModernBERT have it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ...kernels.choice import KernelChoice
from ...kernels.softmax.attention import attention_scores
from .core import Attended, AttentionCore, Heads, LayerState, QueryHeads


class LocalSoftmaxAttention(AttentionCore):
    """Softmax attention over the tokens within a distance, before and after; only for encoders.

    It stays with layers that a hybrid keeps, so it is written for clarity: memory is quadratic in tokens.

    Args:
        distance: Largest distance of a key that a query sees.
    """

    def __init__(self, distance: int) -> None:
        super().__init__()
        self.distance = distance

    def attend(self, heads: Heads, state: LayerState, *, causal: bool, return_state: bool) -> Attended:
        """Softmax attention outputs over near tokens."""
        del state, return_state
        weights = self.weights(heads, causal=causal)
        values = heads.v.to(weights.dtype).repeat_interleave(heads.q.shape[1] // heads.v.shape[1], dim=1)
        out: QueryHeads = (weights @ values).to(heads.v.dtype)
        return out, None, KernelChoice("softmax", "naive")

    def weights(self, heads: Heads, *, causal: bool) -> Float[Tensor, "b h n n"]:
        """Softmax attention weights; a row without a real key is 0."""
        scores = attention_scores(
            heads.q, heads.k, causal=causal, key_padding_mask=heads.key_padding_mask, scale=heads.scale
        )
        token = torch.arange(heads.q.shape[2], device=scores.device)
        is_far = (token[:, None] - token).abs() > self.distance
        return scores.masked_fill(is_far, -torch.inf).softmax(-1).nan_to_num(0.0)

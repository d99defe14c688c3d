"""LoLCATs' hybrid attention: softmax over a sliding window, linear attention over earlier keys, one normaliser."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ...kernels.hybrid.attention import hybrid_attention, hybrid_attention_weights
from ...kernels.hybrid.state import HybridState
from ...kernels.maps.feature_map import FeatureMap
from .core import Attended, AttentionCore, Heads, LayerState

INITIAL_GATE = 0.1
"""Initial γ, as in LoLCATs' configurations."""


class HybridAttention(AttentionCore):
    """Softmax over near keys and linear attention over far ones (arXiv:2410.10254, section 3.2); only causal.

    The gate γ weighs the window against the linear part. Features of a map in log space are on the scale of the
    window's exponentials; for other maps the largest score of each window is subtracted first, as in LoLCATs. These are
    two different models (see `kernels.hybrid.attention`).

    Args:
        query_map: Map of the query heads.
        key_map: Map of the key heads.
        normalize: Must be true, as the parts share a normaliser.
        window: Keys that softmax sees, the query's own included.

    Attributes:
        gate_logit: [h] logit of γ, learned.
        linear_branch: If false, the linear part is left out and the window renormalised, which shows what the linear
            part contributes. It must not change in the middle of a sequence.

    Raises:
        ValueError: The mechanism is not normalised, or its features can be negative.
    """

    def __init__(self, query_map: FeatureMap, key_map: FeatureMap, normalize: bool, window: int) -> None:
        super().__init__()
        if not normalize or not query_map.positive:
            raise ValueError(
                "a window needs linear attention with a normaliser and with features that give no negative "
                "scores, as both parts share the normaliser"
            )
        self.query_map = query_map
        self.key_map = key_map
        self.window = window
        self.gate_logit = nn.Parameter(torch.full((query_map.heads,), math.log(INITIAL_GATE / (1 - INITIAL_GATE))))
        self.linear_branch = True

    def attend(self, heads: Heads, state: LayerState, *, causal: bool, return_state: bool) -> Attended:
        """The outputs of both parts under one normaliser; the state is the last tokens and the sums over earlier ones.

        Raises:
            ValueError: A call that is not causal.
        """
        assert state is None or isinstance(state, HybridState)
        options = self._options(heads, causal)
        phi_q = self.query_map(heads.q, heads.positions)
        options |= {"positions": heads.positions, "initial_state": state, "return_state": return_state}
        result = hybrid_attention(heads.q, heads.k, heads.v, phi_q, self.key_map, **options)
        return result.output, result.state, result.kernel

    def weights(self, heads: Heads, *, causal: bool) -> Float[Tensor, "b h n n"]:
        """The attention weights of both parts, which `attend` never computes.

        Raises:
            ValueError: A call that is not causal.
        """
        options = self._options(heads, causal)
        phi_q, phi_k = self.query_map(heads.q, heads.positions), self.key_map(heads.k, heads.positions)
        return hybrid_attention_weights(heads.q, heads.k, phi_q, phi_k, **options)

    def _options(self, heads: Heads, causal: bool) -> dict[str, Any]:
        if not causal:
            raise ValueError(f"window={self.window} needs causal attention; an encoder has no earlier keys")
        return {
            "window": self.window,
            "gate_log": F.logsigmoid(self.gate_logit),
            "key_padding_mask": heads.key_padding_mask,
            "scale": heads.scale,
            "log_space": self.query_map.log_space,
            "shift_window": not self.query_map.log_space,
            "linear_branch": self.linear_branch,
        }

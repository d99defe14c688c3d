"""LoLCATs' attention: softmax over a sliding window, linear attention over all that came before it, one normaliser."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ...kernels.hybrid.attention import HybridResult, hybrid_attention, hybrid_attention_weights
from ...kernels.hybrid.state import HybridState
from ...kernels.maps.feature_map import FeatureMap
from .core import AttentionCore, Heads, LayerState

INITIAL_GATE = 0.1
"""γ at the start, as in LoLCATs' configurations."""


class HybridAttention(AttentionCore):
    """Softmax over near keys and linear attention over far ones (arXiv:2410.10254, section 3.2); causal alone.

    The gate γ weighs the window against the linear part. A map in log space is on the same scale as the window's
    exponentials; for the others the largest score of each window is taken off first, as LoLCATs does. The two are
    different models (see `kernels.hybrid.attention`).

    Args:
        query_map: Map of the query heads.
        key_map: Map of the key heads.
        normalize: Must be true: the parts meet in their normaliser.
        window: Keys that softmax sees, the query's own included.

    Attributes:
        gate_logit: [h] logit of γ, learned.
        linear_branch: Set to false, the linear part is left out and the window renormalised. The difference says
            whether the linear part does any work. Not to be changed in the middle of a sequence.

    Raises:
        ValueError: The mechanism has no normaliser, or its features can be negative.
    """

    def __init__(self, query_map: FeatureMap, key_map: FeatureMap, normalize: bool, window: int) -> None:
        super().__init__()
        if not normalize or not query_map.positive:
            raise ValueError("a window shares the normaliser of linear attention; it needs one that is positive")
        self.query_map = query_map
        self.key_map = key_map
        self.window = window
        self.gate_logit = nn.Parameter(torch.full((query_map.heads,), math.log(INITIAL_GATE / (1 - INITIAL_GATE))))
        self.linear_branch = True

    def forward(self, heads: Heads, *, causal: bool) -> Float[Tensor, "b h n d"]:
        """The outputs of both parts under their common normaliser.

        Raises:
            ValueError: A call that is not causal.
        """
        self._require_causal(causal)
        return self._attend(self.phase_of_forward(), heads, None, return_state=False).output

    def extend(self, heads: Heads, state: LayerState) -> tuple[Float[Tensor, "b h n d"], LayerState]:
        """The same over the tokens in `state` and these, and the last tokens and sums to go on with."""
        assert state is None or isinstance(state, HybridState)
        result = self._attend(self.phase_of_extend(state), heads, state, return_state=True)
        return result.output, result.state

    def weights(self, heads: Heads, *, causal: bool) -> Float[Tensor, "b h n n"]:
        """The weights of both parts; they are never formed otherwise.

        Raises:
            ValueError: A call that is not causal.
        """
        self._require_causal(causal)
        return hybrid_attention_weights(
            heads.q,
            heads.k,
            self.query_map(heads.q, heads.positions),
            self.key_map(heads.k, heads.positions),
            window=self.window,
            gate_log=F.logsigmoid(self.gate_logit),
            key_padding_mask=heads.key_padding_mask,
            scale=heads.scale,
            log_space=self.query_map.log_space,
            shift_window=not self.query_map.log_space,
            linear_branch=self.linear_branch,
        )

    def _attend(self, phase: str, heads: Heads, state: HybridState | None, *, return_state: bool) -> HybridResult:
        result = hybrid_attention(
            heads.q,
            heads.k,
            heads.v,
            self.query_map(heads.q, heads.positions),
            self.key_map,
            window=self.window,
            gate_log=F.logsigmoid(self.gate_logit),
            positions=heads.positions,
            key_padding_mask=heads.key_padding_mask,
            scale=heads.scale,
            log_space=self.query_map.log_space,
            shift_window=not self.query_map.log_space,
            linear_branch=self.linear_branch,
            initial_state=state,
            return_state=return_state,
        )
        self.record(phase, result.kernel)
        return result

    def _require_causal(self, causal: bool) -> None:
        if not causal:
            raise ValueError(f"window={self.window} needs causal attention; an encoder has no keys that came before")

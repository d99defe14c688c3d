"""Linear attention through feature maps."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from ...kernels.linear.naive import linear_attention_weights
from ...kernels.mapped import mapped_linear_attention
from ...kernels.maps.feature_map import FeatureMap
from ...kernels.state import LinearState
from .core import AttentionCore, Heads, LayerState


class LinearAttention(AttentionCore):
    """Linear attention; the size of its decode state does not depend on how many tokens it holds.

    Args:
        query_map: Map of the query heads.
        key_map: Map of the key heads; with grouped queries it has one set of weights per key-value head.
        normalize: Divide by the sum of the weights.
    """

    def __init__(self, query_map: FeatureMap, key_map: FeatureMap, normalize: bool) -> None:
        super().__init__()
        self.query_map = query_map
        self.key_map = key_map
        self.normalize = normalize

    def forward(self, heads: Heads, *, causal: bool) -> Float[Tensor, "b h n d"]:
        """Linear attention outputs."""
        out, _ = self._attend(self.phase_of_forward(), heads, causal, None, return_state=False)
        return out

    def extend(self, heads: Heads, state: LayerState) -> tuple[Float[Tensor, "b h n d"], LayerState]:
        """Linear attention outputs over the tokens summed up in `state` and these, and the new sums."""
        assert state is None or isinstance(state, LinearState)
        return self._attend(self.phase_of_extend(state), heads, True, state, return_state=True)

    def weights(self, heads: Heads, *, causal: bool) -> Float[Tensor, "b h n n"]:
        """The weights that linear attention never forms otherwise."""
        return linear_attention_weights(
            self.query_map(heads.q, heads.positions),
            self.key_map(heads.k, heads.positions),
            causal=causal,
            key_padding_mask=heads.key_padding_mask,
            normalize=self.normalize,
            log_space=self.query_map.log_space,
        )

    def _attend(
        self, phase: str, heads: Heads, causal: bool, state: LinearState | None, *, return_state: bool
    ) -> tuple[Tensor, LinearState | None]:
        result = mapped_linear_attention(
            heads.q,
            heads.k,
            heads.v,
            self.query_map,
            self.key_map,
            causal=causal,
            positions=heads.positions,
            key_padding_mask=heads.key_padding_mask,
            normalize=self.normalize,
            initial_state=state,
            return_state=return_state,
        )
        self.record(phase, result.kernel)
        return result.output, result.state

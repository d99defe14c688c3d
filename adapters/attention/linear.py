"""Linear attention through feature maps."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from ...kernels.linear.naive import linear_attention_weights
from ...kernels.mapped import mapped_linear_attention
from ...kernels.maps.feature_map import FeatureMap
from ...kernels.state import LinearState
from .core import Attended, AttentionCore, Heads, LayerState


class LinearAttention(AttentionCore):
    """Linear attention; the size of its decode state does not depend on the number of tokens.

    Args:
        query_map: Map of the query heads.
        key_map: Map of the key heads, with a matrix for each key-value head.
        normalize: Divide by the sum of the weights.
    """

    def __init__(self, query_map: FeatureMap, key_map: FeatureMap, normalize: bool) -> None:
        super().__init__()
        self.query_map = query_map
        self.key_map = key_map
        self.normalize = normalize

    def attend(self, heads: Heads, state: LayerState, *, causal: bool, return_state: bool) -> Attended:
        """Linear attention outputs; the state is the sums over keys and values."""
        assert state is None or isinstance(state, LinearState)
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
        return result.output, result.state, result.kernel

    def weights(self, heads: Heads, *, causal: bool) -> Float[Tensor, "b h n n"]:
        """The attention weights, which `attend` never computes."""
        return linear_attention_weights(
            self.query_map(heads.q, heads.positions),
            self.key_map(heads.k, heads.positions),
            causal=causal,
            key_padding_mask=heads.key_padding_mask,
            normalize=self.normalize,
            log_space=self.query_map.log_space,
        )

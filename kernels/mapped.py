"""Linear attention from queries and keys and their maps: fused with the maps where kernels allow it."""

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from .choice import LinearAttentionResult
from .dispatch import linear_attention
from .fused.choose import fused_attention, needs_operator, why_not_fused
from .fused.tensors import Options, Tensors
from .linear.sums import EPS
from .maps.feature_map import FeatureMap
from .maps.hedgehog_tokens import HedgehogTokens
from .maps.learned import HedgehogMap
from .maps.token_maps import Mapped, TokenMap
from .state import LinearState


def mapped_linear_attention(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b hk n d"],
    v: Float[Tensor, "b hk n dv"],
    query_map: FeatureMap,
    key_map: FeatureMap,
    *,
    causal: bool,
    positions: Int[Tensor, "b n"] | None = None,
    key_padding_mask: Bool[Tensor, "b n"] | None = None,
    normalize: bool = True,
    initial_state: LinearState | None = None,
    return_state: bool = False,
) -> LinearAttentionResult:
    """Runs linear attention through two maps; on CUDA, Hedgehog's maps run inside the attention kernels.

    Args:
        q: queries.
        k: keys.
        v: values.
        query_map: map of the query heads.
        key_map: map of the key heads.
        causal: a query sees the keys up to its own.
        positions: of the tokens, for maps that read them.
        key_padding_mask: true where a key is a real token.
        normalize: divide by the row sum.
        initial_state: state after the tokens before these.
        return_state: the caller needs the state after the last key.
    """
    state: dict[str, Any] = {"return_state": return_state}
    if isinstance(query_map, HedgehogMap) and isinstance(key_map, HedgehogMap) and _alike(query_map, key_map):
        maps = (query_map.weight, key_map.weight, query_map.bias, key_map.bias)
        given = Tensors.of((q, k, v), initial_state, key_padding_mask, maps=maps)
        if needs_operator(given, query_map.log_space) or not why_not_fused(given):
            options = Options(query_map.map, query_map.negate, query_map.log_space, causal, normalize, EPS, "auto")
            return fused_attention(given, options, **state)
    return linear_attention(
        q,
        k,
        v,
        causal=causal,
        key_padding_mask=key_padding_mask,
        normalize=normalize,
        log_space=query_map.log_space,
        initial_state=initial_state,
        maps=(_at(query_map, positions), _at(key_map, positions)),
        **state,
    )


def _at(feature_map: FeatureMap, positions: Tensor | None) -> TokenMap:
    if isinstance(feature_map, HedgehogMap):
        return HedgehogTokens(feature_map.weight, feature_map.bias, feature_map.map, feature_map.negate)
    return Mapped(feature_map, tuple(feature_map.parameters()), positions)


def _alike(query_map: HedgehogMap, key_map: HedgehogMap) -> bool:
    same = query_map.map == key_map.map and query_map.negate == key_map.negate
    return same and (query_map.bias is None) == (key_map.bias is None)

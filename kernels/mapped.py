"""Linear attention from queries, keys and their feature maps; on CUDA the kernels apply Hedgehog's maps themselves."""

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from .choice import KernelChoice, LinearAttentionResult
from .dispatch import linear_attention
from .fused.call import Call
from .fused.choose import fused_if_possible
from .linear.naive import linear_attention_naive
from .maps.feature_map import FeatureMap, without_autocast
from .maps.hedgehog_tokens import HedgehogTokens
from .maps.learned import HedgehogMap
from .maps.token_maps import Mapped, TokenMap, zero_padding
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
    """Runs linear attention with two maps; on CUDA, Hedgehog's maps run inside the attention kernels if they can.

    Args:
        q: queries.
        k: keys; query head i uses kv head i // (h / hk).
        v: values.
        query_map: map of the query heads.
        key_map: map of the key heads.
        causal: a query sees the keys up to its own.
        positions: positions of the tokens, for maps that read them.
        key_padding_mask: true where a key is a real token.
        normalize: divide by the row sum.
        initial_state: state after the tokens before these.
        return_state: the caller needs the state after the last key.

    Raises:
        ValueError: tensors, maps or a state that do not fit each other.
    """
    backend = "auto"
    if isinstance(query_map, HedgehogMap) and isinstance(key_map, HedgehogMap) and _alike(query_map, key_map):
        call = Call.of(
            q, k, v, initial_state, q_weight=query_map.weight, k_weight=key_map.weight, q_bias=query_map.bias,
            k_bias=key_map.bias, feature_map=query_map.map, negate=query_map.negate, log_space=query_map.log_space,
            causal=causal, normalize=normalize, mask=key_padding_mask,
        )  # fmt: skip
        if (result := fused_if_possible(call, return_state=return_state)) is not None:
            return result
        # On CUDA the kernels may support given features where they do not support the map.
        backend = "auto" if q.is_cuda else "torch"
    if not return_state and initial_state is None and _has_short_scores(q, k, query_map, key_map):
        vectors = query_map.product_vectors(q), key_map.product_vectors(zero_padding(k, key_padding_mask))
        options: dict[str, Any] = {"causal": causal, "key_padding_mask": key_padding_mask, "normalize": normalize}
        with without_autocast(q.device.type):
            output = linear_attention_naive(*vectors, v, **options, of_products=query_map.of_products)
        return LinearAttentionResult(output, None, KernelChoice("naive", "torch"))
    return linear_attention(
        q, k, v, causal=causal, key_padding_mask=key_padding_mask, normalize=normalize, log_space=query_map.log_space,
        initial_state=initial_state, maps=(_at(query_map, positions), _at(key_map, positions)),
        return_state=return_state, backend=backend,
    )  # fmt: skip


def _at(feature_map: FeatureMap, positions: Tensor | None) -> TokenMap:
    if isinstance(feature_map, HedgehogMap):
        return HedgehogTokens(feature_map.weight, feature_map.bias, feature_map.map, feature_map.negate)
    return Mapped(feature_map, tuple(feature_map.parameters()), positions)


def _has_short_scores(q: Tensor, k: Tensor, query_map: FeatureMap, key_map: FeatureMap) -> bool:
    """Whether all scores, from products of short vectors, are no more numbers than the features on a CPU."""
    closed = query_map.of_products is not None and query_map.of_products is key_map.of_products
    return closed and not q.is_cuda and 1 < k.shape[2] <= query_map.feature_dim


def _alike(query_map: HedgehogMap, key_map: HedgehogMap) -> bool:
    same = query_map.map == key_map.map and query_map.negate == key_map.negate
    return same and (query_map.bias is None) == (key_map.bias is None)

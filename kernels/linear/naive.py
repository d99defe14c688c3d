"""Linear attention with all n×m scores: its weights, and the reference that tests compare the other forms with."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..maps.token_maps import hide_padding
from ..softmax.attention import visible_keys
from ..state import EMPTY_LOG, accumulator_dtype
from .spill import first_seen, query_weights
from .sums import EPS, Rows, normalized_from_rows, query_groups

_BLOCK_ELEMENTS = 1 << 22
"""Largest number of elements of the [b h block m f] tensor that exact scores in log space need, unless the block is one
query."""

_FACTORED_RANGE = {torch.float32: 40.0, torch.float64: 320.0}
"""Nats by which a log feature may exceed that of the first real key. Above that, scores as a matrix product of
exponentials would underflow in the rows before that key."""


def linear_attention_naive(
    phi_q: Float[Tensor, "b h n f"],
    phi_k: Float[Tensor, "b hk m f"],
    v: Float[Tensor, "b hk m dv"],
    *,
    causal: bool,
    key_padding_mask: Bool[Tensor, "b m"] | None = None,
    **options: Any,
) -> Float[Tensor, "b h n dv"]:
    """The outputs Σ_j a_ij v_j in the type of v, with a the weights of `linear_attention_weights`.

    Arguments besides v, and errors, are those of `linear_attention_weights` with `exact=True`. In log space it takes
    n·m·f exponentials: it is a reference, not a fast path.
    """
    groups = query_groups(phi_q, phi_k, causal)
    weights = linear_attention_weights(
        phi_q, phi_k, causal=causal, key_padding_mask=key_padding_mask, exact=True, **options
    )
    v = hide_padding(v, key_padding_mask)
    dtype = accumulator_dtype(weights, v)
    return (weights.to(dtype) @ v.to(dtype).repeat_interleave(groups, dim=1)).to(v.dtype)


def linear_attention_weights(
    phi_q: Float[Tensor, "b h n f"],
    phi_k: Float[Tensor, "b hk m f"],
    *,
    causal: bool,
    key_padding_mask: Bool[Tensor, "b m"] | None = None,
    normalize: bool = True,
    eps: float = EPS,
    log_space: bool = False,
    exact: bool = False,
    of_products: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, "b h n m"]:
    """The attention weights φ(q_i)·φ(k_j) / Σ_m φ(q_i)·φ(k_m), zero at keys a query does not see, in float32 at least.

    Args:
        phi_q: features of the queries, or their logarithms.
        phi_k: features of the keys, or their logarithms; query head i uses kv head i // (h / hk).
        causal: a query sees the keys up to its own; with m > n the queries are the last n tokens.
        key_padding_mask: true where a key is a real token.
        normalize: divide by the row sum; a row without keys stays zero.
        eps: added to the row sum, outside log space.
        log_space: `phi_q` and `phi_k` are logarithms.
        exact: in log space, sum the features of every score separately, even if a matrix product would be accurate.
        of_products: outside log space, function of the products of `phi_q` and `phi_k` that gives the scores, if these
            are not features but a map's `product_vectors`.

    Raises:
        ValueError: kv heads that do not divide the query heads, or more queries than keys in a causal call.
    """
    scores, scale = _scores(phi_q, phi_k, causal, key_padding_mask, log_space, exact, of_products)
    if not normalize:
        return scores * scale.exp() if log_space else scores
    total = scores.sum(-1, keepdim=True)
    return scores / (total.masked_fill(total == 0, 1.0) if log_space else total + eps)


def linear_attention_weights_and_log(
    phi_q: Float[Tensor, "b h n f"],
    phi_k: Float[Tensor, "b hk m f"],
    *,
    causal: bool,
    key_padding_mask: Bool[Tensor, "b m"] | None = None,
    log_space: bool = False,
) -> tuple[Float[Tensor, "b h n m"], Float[Tensor, "b h n"]]:
    """Normalised attention weights, without an eps, and log Σ_j φ(q_i)·φ(k_j) of each row.

    Arguments and errors are those of `linear_attention_weights`; φ(q)·φ(k) must not be negative. A row without keys is
    zero and has the logarithm `EMPTY_LOG`.
    """
    scores, scale = _scores(phi_q, phi_k, causal, key_padding_mask, log_space, exact=False)
    return normalized_from_rows(Rows(torch.cat([scores, scores.sum(-1, keepdim=True)], dim=-1), scale))


def _scores(
    phi_q: Tensor,
    phi_k: Tensor,
    causal: bool,
    key_padding_mask: Tensor | None,
    log_space: bool,
    exact: bool,
    of_products: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Scores [b h n m], zero at keys a query does not see, and the logarithm of their scale.

    The true scores are scores·exp(scale). The scale is [b h n 1] in log space, else the number zero.
    """
    groups = query_groups(phi_q, phi_k, causal)
    dtype = accumulator_dtype(phi_q, phi_k)
    seen = visible_keys(phi_q, phi_k, causal=causal, key_padding_mask=key_padding_mask)
    queries, keys = phi_q.to(dtype), hide_padding(phi_k.to(dtype), key_padding_mask, EMPTY_LOG if log_space else 0.0)
    if not log_space:
        products = queries @ keys.repeat_interleave(groups, dim=1).mT
        scores = (products if of_products is None else of_products(products)).masked_fill(~seen, 0.0)
        return scores, scores.new_zeros(())
    factored = not exact
    if factored and causal:
        rise = keys.detach().amax(-2, keepdim=True) - first_seen(keys.detach())
        factored = bool((rise <= _FACTORED_RANGE[dtype]).all())
    score = _factored_scores if factored else _exact_scores
    return score(queries, keys.repeat_interleave(groups, dim=1), seen)


def _factored_scores(queries: Tensor, keys: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of log features as one matrix product, after the maximum of each feature is taken off the keys."""
    shift = keys.detach().amax(-2, keepdim=True)
    weights, scale = query_weights(queries, shift)
    return (weights @ (keys - shift).exp().mT).masked_fill(~seen, 0.0), scale


def _exact_scores(queries: Tensor, keys: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of log features by a logsumexp over the features of each pair, for log features of any range."""
    batch, heads, tokens, features = keys.shape
    block = max(1, _BLOCK_ELEMENTS // max(1, batch * heads * tokens * features))
    logs = torch.cat(
        [(rows[..., None, :] + keys[..., None, :, :]).logsumexp(-1) for rows in torch.split(queries, block, -2)], dim=-2
    ).masked_fill(~seen, EMPTY_LOG)
    scale = logs.detach().amax(-1, keepdim=True)
    return (logs - scale).exp().masked_fill(~seen, 0.0), scale

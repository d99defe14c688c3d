"""Which keys a query may see."""

import torch
from jaxtyping import Bool
from torch import Tensor


def visible_keys(
    queries: int,
    keys: int,
    *,
    causal: bool,
    key_padding_mask: Bool[Tensor, "b m"] | None = None,
    window: int | None = None,
    device: torch.device | None = None,
) -> Bool[Tensor, "#b 1 {queries} {keys}"]:
    """Gives true where a query sees a key, to be broadcast over heads (and over the batch without a padding mask).

    Args:
        queries: n; the queries are the last n of the keys' tokens, so query i stands at token i + m - n.
        keys: m.
        causal: only keys at or before the query's own token.
        key_padding_mask: true where a key is a real token.
        window: only the last so many tokens up to the query's own, w of them counting itself.
        device: where to make the mask.

    Raises:
        ValueError: a window below 1 token, or one that is not causal.
    """
    if window is not None and (window < 1 or not causal):
        raise ValueError(f"a window needs causal attention and at least 1 token, got window={window}, causal={causal}")
    token = torch.arange(queries, device=device)[:, None] + (keys - queries)
    distance = token - torch.arange(keys, device=device)
    seen = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    if window is not None:
        seen = seen & (distance < window)
    seen = seen[None, None]
    return seen if key_padding_mask is None else seen & key_padding_mask[:, None, None]

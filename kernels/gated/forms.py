"""Forms of gated and delta-rule attention in plain torch: naive (quadratic), recurrent and chunk.

All three are exact however strong the decay: no exponent is clamped, none is positive, so that nothing overflows, and
none is a difference of sums, which would cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from .chunk import chunk
from .rule import GatedRule, Ran, by_key_head, lower_triangle


def gated_weights(rule: GatedRule) -> Float[Tensor, "b h n n"]:
    """The weights of the values in each output, which no other form computes; they can be negative.

    Each pair of tokens is decayed on its own. Of the delta rule's writes u, token i's is
    beta_i (v_i - Σ_j (k_i decayed k_j) u_j) over the earlier tokens j, a triangular system.
    """
    q, k, _, decay, beta = by_key_head(rule)
    earlier, causal = (lower_triangle(q.shape[-2], q.device, diagonal)[..., None] for diagonal in (-1, 0))
    exponents = torch.where(earlier, decay[..., :, None, :], 0).cumsum(-3)
    decayed = k[..., None, :, :] * exponents.masked_fill(~causal, -torch.inf).exp()  # b hk 1 n n d
    weights = (q[..., :, None, :] * decayed).sum(-1)
    if beta is not None:
        ties = beta * (k[..., :, None, :] * decayed).sum(-1)
        writes = torch.diag_embed(beta.squeeze(-1))
        weights = weights @ torch.linalg.solve_triangular(ties, writes, upper=False, unitriangular=True)
    return weights.flatten(1, 2)


def naive(rule: GatedRule, state: Tensor | None, return_state: bool) -> Ran:
    """The values under their weights.

    Raises:
        ValueError: there is a state to go on from.
    """
    del return_state
    if state is not None:
        raise ValueError("the naive form has no state to go on from; allowed forms: recurrent, chunk")
    groups = rule.q.shape[1] // rule.v.shape[1]
    return gated_weights(rule) @ rule.v.repeat_interleave(groups, dim=1), None


def recurrent(rule: GatedRule, state: Tensor | None, return_state: bool) -> Ran:
    """One token after another, as the rule is defined; the state is there anyway."""
    del return_state
    q, k, v, decay, beta = by_key_head(rule)
    sums = (rule.empty_state if state is None else state)[:, :, None]
    outputs = []
    for t in range(q.shape[-2]):
        now = slice(t, t + 1)
        sums = sums * decay[..., now, :].exp().mT
        write = v[..., now, :]
        if beta is not None:
            write = beta[..., now, :] * (write - k[..., now, :] @ sums)
        sums = sums + k[..., now, :].mT @ write
        outputs.append(q[..., now, :] @ sums)
    return torch.cat(outputs, -2).flatten(1, 2), sums.squeeze(2)


FORMS: Mapping[str, Callable[[GatedRule, Tensor | None, bool], Ran]] = {
    "naive": naive,
    "recurrent": recurrent,
    "chunk": chunk,
}
"""The forms by name."""

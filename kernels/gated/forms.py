"""Forms of gated and delta-rule attention in plain torch: naive (quadratic), recurrent and chunk.

All three are exact however strong the decay: no exponent is clamped, none is positive, so that nothing overflows, and
none is a difference of sums, which would cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .rule import GatedRule, by_key_head, lower_triangle

MAX_CHUNK = 32
"""Tokens of a chunk, a power of two."""

Ran = tuple[Tensor, Tensor | None]
"""The output `[b h n dv]`, and the state after the last token."""


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


def naive(rule: GatedRule, state: Tensor | None) -> Ran:
    """The values under their weights.

    Raises:
        ValueError: there is a state to go on from.
    """
    if state is not None:
        raise ValueError("the naive form has no state to go on from; allowed forms: recurrent, chunk")
    groups = rule.q.shape[1] // rule.v.shape[1]
    return gated_weights(rule) @ rule.v.repeat_interleave(groups, dim=1), None


def recurrent(rule: GatedRule, state: Tensor | None) -> Ran:
    """One token after another, as the rule is defined."""
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


def chunk(rule: GatedRule, state: Tensor | None) -> Ran:
    """Products inside chunks of up to `MAX_CHUNK` tokens, and a state between chunks.

    Decays are scalars or one for each channel, sums are plain or by the delta rule. Inside a chunk the writes of the
    delta rule solve a triangular system (Yang et al. 2024, arXiv:2406.06484, section 3.2), with decays as in gated
    DeltaNet (arXiv:2412.06464, section 3.3) and Kimi Linear (arXiv:2510.26692, section 3).
    """
    tokens = rule.q.shape[-2]
    size = min(MAX_CHUNK, 1 << (tokens - 1).bit_length())
    fill = -tokens % size

    def split(x: Tensor) -> Tensor:
        return torch.unflatten(F.pad(x, (0, 0, 0, fill)), -2, (-1, size))  # b hk g chunks size d

    q, k, writes, decay = (split(x) for x in by_key_head(rule)[:4])
    since_start = decay.cumsum(-2).exp()
    scores = decayed_products(q, k, decay)
    reads = None
    if rule.beta is not None:
        beta = split(rule.beta[:, :, None, :, None])
        wanted = torch.cat([writes, k * since_start], -1) * beta
        ties = beta * decayed_products(k, k, decay)
        solved = torch.linalg.solve_triangular(ties, wanted, upper=False, unitriangular=True)
        writes, reads = solved.split([writes.shape[-1], k.shape[-1]], -1)
    q, k, whole = q * since_start, k * _sums_after(decay).exp(), since_start[..., -1:, :].mT
    sums = (rule.empty_state if state is None else state)[:, :, None]
    outputs = []
    for i in range(q.shape[3]):
        write = writes[:, :, :, i] if reads is None else writes[:, :, :, i] - reads[:, :, :, i] @ sums
        outputs.append(q[:, :, :, i] @ sums + scores[:, :, :, i] @ write)
        sums = sums * whole[:, :, :, i] + k[:, :, :, i].mT @ write
    return torch.cat(outputs, -2)[..., :tokens, :].flatten(1, 2), sums.squeeze(2)


def decayed_products(
    q: Float[Tensor, "*b n d"], k: Float[Tensor, "*#b n d"], decay: Float[Tensor, "*#b n c"]
) -> Float[Tensor, "*b n n"]:
    """Products q_i·k_j over channels, each decayed from token j to i, at keys j up to each query i; 0 at later keys.

    With a decay for each channel the square is halved again and again: products across the middle factor there into
    two matrices whose exponents are at most 0, so that only matrix products remain.

    Args:
        q: queries.
        k: keys.
        decay: logarithms of the decays; c is d, or 1 for one decay of all channels. The number of tokens is a power of
            two.
    """
    size = q.shape[-2]
    if decay.shape[-1] == 1:
        exponents = decay.expand(*decay.shape[:-1], size).tril(-1).cumsum(-2)
        return (q @ k.mT) * exponents.masked_fill(~lower_triangle(size, q.device), -torch.inf).exp()
    if size == 1:
        return (q * k).sum(-1, keepdim=True)
    q, k, decay = (torch.unflatten(x, -2, (2, size // 2)) for x in (q, k, decay))
    upper, lower = decayed_products(q, k, decay).unbind(-3)
    late, early = q[..., 1, :, :] * decay[..., 1, :, :].cumsum(-2).exp(), k[..., 0, :, :]
    across = late @ (early * _sums_after(decay[..., 0, :, :]).exp()).mT
    return torch.cat([torch.cat([upper, torch.zeros_like(upper)], -1), torch.cat([across, lower], -1)], -2)


def _sums_after(decay: Float[Tensor, "*b n c"]) -> Float[Tensor, "*b n c"]:
    """Sums over the tokens after each token."""
    return F.pad(decay[..., 1:, :], (0, 0, 0, 1)).flip(-2).cumsum(-2).flip(-2)


FORMS: Mapping[str, Callable[[GatedRule, Tensor | None], Ran]] = {
    "naive": naive,
    "recurrent": recurrent,
    "chunk": chunk,
}
"""The forms by name."""

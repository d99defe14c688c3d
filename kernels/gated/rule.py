"""The recurrence behind gated and delta-rule attention: what it reads, and the result of running it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..choice import KernelChoice
from ..state import accumulator_dtype

Ran = tuple[Tensor, Tensor | None]
"""The output `[b h n dv]` of a form, and the state after the last token."""


@dataclass(frozen=True)
class GatedRule:
    """Queries, keys, values and gates of n tokens.

    The state S starts at zero. Each token decays it, writes into it and reads from it:

        S ← diag(exp(log_decay)) S
        S ← S + k vᵀ, or with beta the delta rule S ← S + beta k (v - Sᵀk)ᵀ
        o = scale Sᵀq

    Attributes:
        q: queries; query head i reads the state of key head i // (h / hk).
        k: keys.
        v: values.
        log_decay: logarithm of the decay of each key channel, or of all channels of a head if c is 1; at most 0.
        beta: strength of a write of the delta rule; None for plain sums.
        scale: factor on the outputs.
    """

    q: Float[Tensor, "b h n d"]
    k: Float[Tensor, "b hk n d"]
    v: Float[Tensor, "b hk n dv"]
    log_decay: Float[Tensor, "b hk n c"]
    beta: Float[Tensor, "b hk n"] | None = None
    scale: float = 1.0

    def without_padding(self, mask: Bool[Tensor, "b n"] | None) -> GatedRule:
        """The rule whose padded tokens leave the state as it is; `mask` is true at real tokens."""
        if mask is None:
            return self
        padded = ~mask[:, None, :, None]
        return replace(self, k=self.k.masked_fill(padded, 0), log_decay=self.log_decay.masked_fill(padded, 0))

    def exact(self) -> GatedRule:
        """The rule in the type that sums are held in, with the scale on the queries."""
        dtype = accumulator_dtype(self.q, self.k, self.v)
        q, k, v, decay = (x.to(dtype) for x in (self.q, self.k, self.v, self.log_decay))
        beta = None if self.beta is None else self.beta.to(dtype)
        return GatedRule(q * self.scale, k, v, decay, beta)

    @property
    def empty_state(self) -> Float[Tensor, "b hk d dv"]:
        """The state before the first token."""
        dtype = accumulator_dtype(self.q, self.k, self.v)
        return self.k.new_zeros(*self.k.shape[:2], self.k.shape[-1], self.v.shape[-1], dtype=dtype)


@dataclass(frozen=True)
class GatedResult:
    """Output of gated attention, the state after the last token, and what ran.

    Attributes:
        output: in the type of the values.
        state: S after the last token; None from the naive form, which keeps no state, and where the caller needs none.
        kernel: the form and the backend that ran.
    """

    output: Float[Tensor, "b h n dv"]
    state: Float[Tensor, "b hk d dv"] | None
    kernel: KernelChoice


def by_key_head(rule: GatedRule) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """q `[b hk g n d]`, and k, v, log_decay and beta with an axis of one for the g query heads that share them."""
    q = torch.unflatten(rule.q, 1, (rule.k.shape[1], -1))
    beta = None if rule.beta is None else rule.beta[:, :, None, :, None]
    return q, rule.k[:, :, None], rule.v[:, :, None], rule.log_decay[:, :, None], beta


def lower_triangle(size: int, device: torch.device, diagonal: int = 0) -> Bool[Tensor, "{size} {size}"]:
    """True at keys up to each query, shifted by `diagonal`."""
    return torch.ones(size, size, dtype=torch.bool, device=device).tril(diagonal)

"""Numerator and denominator of linear attention as one tensor, and conversion from and to a state.

Values have a last column of ones, so that the row sum is the last column of the sums: [.. dv+1] = Σ_j score_ij [v_j,
1]. A pair of sums and log_scale stands for sums·exp(log_scale); outside log space log_scale is the number zero. Sizes:
r is batch times kv heads.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..softmax.attention import kv_groups
from ..state import EMPTY_LOG, LinearState, accumulator_dtype, empty_state

EPS = 1e-12
"""Added to the denominator outside log space, as in the Hedgehog authors' code. In log space the scaled sum of a row
that sees a key is never small, so nothing is added."""


class Carry(NamedTuple):
    """Sums over the keys so far.

    Attributes:
        sums: [r f dv+1], Σ_j φ(k_j) [v_j, 1]ᵀ.
        log_scale: [r 1 f], the running maximum of each log feature; zero outside log space.
        complete: some unmasked key is known to have been seen in every row, so no log_scale is `EMPTY_LOG`.
    """

    sums: Tensor
    log_scale: Tensor
    complete: bool = False


class Rows(NamedTuple):
    """Sums over the keys that each query sees: [.. n dv+1], and their log_scale [.. n 1], or zero."""

    sums: Tensor
    log_scale: Tensor


def query_groups(phi_q: Float[Tensor, "b h n f"], phi_k: Float[Tensor, "b hk m f"], causal: bool) -> int:
    """The number of query heads for each kv head.

    Raises:
        ValueError: the kv heads do not divide the query heads, or a causal call has more queries than keys.
    """
    if causal and phi_q.shape[2] > phi_k.shape[2]:
        raise ValueError(
            f"causal linear attention aligns queries with the last keys, but got {phi_q.shape[2]} queries "
            f"and {phi_k.shape[2]} keys"
        )
    return kv_groups(phi_q, phi_k)


class Division(NamedTuple):
    """Computes outputs from the sums of rows. A row without keys gives zero.

    Attributes:
        normalize: divide numerators by denominators; otherwise multiply them by exp(log_scale).
        eps: added to the denominators, outside log space.
        log_space: the sums have a log_scale.
        may_be_blind: a row may see no key, so denominators of zero are replaced by 1.
    """

    normalize: bool
    eps: float
    log_space: bool
    may_be_blind: bool = True

    def output(self, rows: Rows, out: Tensor | None = None, factors: Tensor | None = None) -> Float[Tensor, "*b n dv"]:
        """The outputs of these rows.

        Args:
            rows: sums [.. n dv+1].
            out: where to write the outputs.
            factors: [.. n 1], where to write the factor by which each row's numerators become outputs.
        """
        numerators, denominators = _parts(rows)
        if self.normalize:
            divisors = self._divisors(denominators)
            if factors is not None:
                torch.reciprocal(divisors, out=factors)
            return torch.div(numerators, divisors, out=out)
        scale = rows.log_scale.exp()
        if factors is not None:
            factors.copy_(scale)
        return torch.mul(numerators, scale, out=out)

    def _divisors(self, denominators: Tensor) -> Tensor:
        if not self.log_space:
            return denominators + self.eps
        return denominators.masked_fill(denominators == 0, 1.0) if self.may_be_blind else denominators


def normalized_from_rows(rows: Rows) -> tuple[Float[Tensor, "*b n dv"], Float[Tensor, "*b n"]]:
    """Normalised outputs without an eps, and the logarithms of the denominators.

    A row whose denominator is zero gives zero and `EMPTY_LOG`, without a gradient. Denominators must not be negative.
    """
    numerators, denominators = _parts(rows)
    empty = denominators == 0
    divisors = denominators.masked_fill(empty, 1.0)
    logs = (divisors.log() + rows.log_scale).masked_fill(empty, EMPTY_LOG)
    return numerators / divisors, logs.squeeze(-1)


def _parts(rows: Rows) -> tuple[Tensor, Tensor]:
    """Splits sums into numerators [.. n dv] and denominators [.. n 1]; two slices would have gradients of full size."""
    numerators, denominators = rows.sums.split_with_sizes([rows.sums.shape[-1] - 1, 1], -1)
    return numerators, denominators


def carry_from_state(
    state: LinearState | None, phi_k: Float[Tensor, "b hk _ f"], v: Float[Tensor, "b hk _ dv"], log_space: bool
) -> Carry:
    """The sums of a state, or zeros without one, as the forms carry them.

    Args:
        state: state after the tokens before these.
        phi_k: features of the keys; only sizes and type are read.
        v: values; only sizes and type are read.
        log_space: features are logarithms.

    Raises:
        ValueError: a state with a log_scale outside log space, or without one in log space.
    """
    state = state or empty_state(phi_k, v, log_space=log_space)
    if (state.log_scale is not None) != log_space:
        kind = "has no" if state.log_scale is None else "has a"
        raise ValueError(f"initial_state {kind} log_scale, which does not fit log_space={log_space}")
    sums = torch.cat([state.kv, state.k[..., None]], dim=-1).to(accumulator_dtype(phi_k, v, state.kv))
    log_scale = sums.new_zeros(()) if state.log_scale is None else state.log_scale.detach().flatten(0, 1)[:, None]
    return Carry(sums.flatten(0, 1), log_scale)


def state_from_carry(carry: Carry, kv_heads: int, *, log_space: bool) -> LinearState:
    """The state that holds the sums which the forms carry."""
    sums = torch.unflatten(carry.sums, 0, (-1, kv_heads))
    return LinearState(sums[..., :-1], sums[..., -1], carry.log_scale.view(sums.shape[:-1]) if log_space else None)

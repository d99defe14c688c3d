"""What all forms of linear attention share: numerator and denominator as one tensor, and the way in and out of it.

A last column of ones on the values makes the row sum one more value: sums [.. dv+1] = Σ_j score_ij [v_j, 1]. A pair of
sums and log_scale stands for sums·exp(log_scale); outside log space log_scale is zero.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from ..state import EMPTY_LOG, LinearState, accumulator_dtype, empty_state

EPS = 1e-12
"""Added to the denominator outside log space, as in the Hedgehog authors' code. In log space no row's sum is small."""


class Carry(NamedTuple):
    """Sums over keys: [b hk f dv+1], and their log_scale [b hk f]."""

    sums: Tensor
    log_scale: Tensor


class Rows(NamedTuple):
    """Sums over the keys a query sees: [.. n dv+1], and their log_scale [.. n 1]."""

    sums: Tensor
    log_scale: Tensor


def query_groups(phi_q: Float[Tensor, "b h n f"], phi_k: Float[Tensor, "b hk m f"], causal: bool) -> int:
    """Gives the number of query heads per kv head.

    Raises:
        ValueError: the kv heads do not divide the query heads, or a causal call has more queries than keys.
    """
    heads, kv_heads = phi_q.shape[1], phi_k.shape[1]
    if heads % kv_heads:
        raise ValueError(f"{kv_heads} kv heads do not divide {heads} query heads")
    if causal and phi_q.shape[2] > phi_k.shape[2]:
        raise ValueError(
            f"causal linear attention aligns queries with the last keys, but got {phi_q.shape[2]} queries "
            f"and {phi_k.shape[2]} keys"
        )
    return heads // kv_heads


def keys_and_values(
    phi_k: Float[Tensor, "b hk m f"],
    v: Float[Tensor, "b hk m dv"],
    key_padding_mask: Bool[Tensor, "b m"] | None,
    log_space: bool,
) -> tuple[Float[Tensor, "b hk m f"], Float[Tensor, "b hk m dv1"]]:
    """Gives keys, and values with a column of ones, in the accumulator's type; masked tokens add nothing to a sum."""
    dtype = accumulator_dtype(phi_k, v)
    keys = phi_k.to(dtype)
    values = F.pad(v.to(dtype), (0, 1), value=1.0)
    if key_padding_mask is None:
        return keys, values
    padding = ~key_padding_mask[:, None, :, None]
    return keys.masked_fill(padding, EMPTY_LOG if log_space else 0.0), values.masked_fill(padding, 0.0)


def output_from_rows(rows: Rows, *, normalize: bool, eps: float, log_space: bool) -> Tensor:
    """Divides numerators by denominators, or multiplies with exp(log_scale). A row that sees no key gives zero.

    Args:
        rows: sums [.. n dv+1].
        normalize: divide.
        eps: added to the denominator, outside log space.
        log_space: the sums have a log_scale.
    """
    numerators, denominators = _parts(rows)
    if not normalize:
        return numerators * rows.log_scale.exp() if log_space else numerators
    return numerators / (denominators.masked_fill(denominators == 0, 1.0) if log_space else denominators + eps)


def normalized_from_rows(rows: Rows) -> tuple[Float[Tensor, "*b n dv"], Float[Tensor, "*b n"]]:
    """Divides numerators by denominators without an eps, and gives the logarithm of the denominators.

    A row that sees no key gives zero and `EMPTY_LOG`, without a gradient. Denominators must not be negative.
    """
    numerators, denominators = _parts(rows)
    empty = denominators == 0
    divisors = denominators.masked_fill(empty, 1.0)
    logs = (divisors.log() + rows.log_scale).masked_fill(empty, EMPTY_LOG)
    return numerators / divisors, logs.squeeze(-1)


def _parts(rows: Rows) -> tuple[Tensor, Tensor]:
    """Splits sums into numerators [.. n dv] and denominators [.. n 1]; a slice's gradient would be of full size."""
    numerators, denominators = torch.split(rows.sums, [rows.sums.shape[-1] - 1, 1], -1)
    return numerators, denominators


def carry_from_state(
    state: LinearState | None, phi_k: Float[Tensor, "b hk m f"], v: Float[Tensor, "b hk m dv"], log_space: bool
) -> Carry:
    """Joins a state's sums, or those before the first key, as the forms carry them.

    Raises:
        ValueError: the state of a map in log space for a map that is not, or the reverse.
    """
    state = state or empty_state(phi_k, v, log_space=log_space)
    if (state.log_scale is not None) != log_space:
        kind = "has no" if state.log_scale is None else "has a"
        raise ValueError(f"initial_state {kind} log_scale, which does not fit log_space={log_space}")
    sums = torch.cat([state.kv, state.k[..., None]], dim=-1).to(accumulator_dtype(phi_k, v, state.kv))
    return Carry(sums, torch.zeros_like(state.k) if state.log_scale is None else state.log_scale.detach())


def state_from_carry(carry: Carry, log_space: bool) -> LinearState:
    """Splits what the forms carry into a state."""
    return LinearState(carry.sums[..., :-1], carry.sums[..., -1], carry.log_scale if log_space else None)

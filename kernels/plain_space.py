"""Steps of linear attention on features as they are; `log_space` has the same steps for log features."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .sums import Carry, Rows


def absorb(keys: Float[Tensor, "b hk c f"], values: Float[Tensor, "b hk c dv1"], carry: Carry) -> Carry:
    """Adds keys to the carried sums."""
    return Carry(carry.sums + keys.mT @ values, carry.log_scale)


def apply(queries: Float[Tensor, "b hk gc f"], carry: Carry) -> Rows:
    """Reads the carried sums."""
    return Rows(queries @ carry.sums, queries.new_zeros(()))


def causal_step(
    queries: Float[Tensor, "b hk gc f"],
    keys: Float[Tensor, "b hk c f"],
    values: Float[Tensor, "b hk c dv1"],
    hidden: Bool[Tensor, "gc c"],
    carry: Carry,
) -> tuple[Rows, Carry]:
    """Attends from a chunk to itself, where not hidden, and to all that is carried; then carries the chunk too.

    Args:
        queries: features, the g query heads of a kv head one after another.
        keys: features, zero where masked.
        values: with the column of ones, zero where masked.
        hidden: true where a query must not see a key.
        carry: sums over the keys before the chunk.
    """
    scores = (queries @ keys.mT).masked_fill(hidden, 0.0)
    return Rows(fused_sums(scores, values, queries, carry.sums), queries.new_zeros(())), absorb(keys, values, carry)


def fused_sums(
    scores: Float[Tensor, "b hk gc c"],
    values: Float[Tensor, "b hk c dv1"],
    queries: Float[Tensor, "b hk gc f"],
    carried: Float[Tensor, "b hk f dv1"],
) -> Float[Tensor, "b hk gc dv1"]:
    """Gives scores·values + queries·carried, the second product added into the first."""
    within = (scores @ values).flatten(0, 1)
    sums: Tensor = torch.baddbmm(within, queries.flatten(0, 1), carried.flatten(0, 1))
    return sums.view(*scores.shape[:-1], values.shape[-1])

"""Steps of linear attention on features as they are; `log_space` has the same steps for log features."""

import torch
from jaxtyping import Float
from torch import Tensor

from .sums import Carry, Rows


def absorb(keys: Float[Tensor, "b hk c f"], values: Float[Tensor, "b hk c dv1"], carry: Carry) -> Carry:
    """Adds keys to the carried sums."""
    sums = torch.baddbmm(carry.sums.flatten(0, 1), keys.mT.flatten(0, 1), values.flatten(0, 1))
    return Carry(sums.view(carry.sums.shape), carry.log_scale)


def apply(queries: Float[Tensor, "b hk gc f"], carry: Carry) -> Rows:
    """Reads the carried sums."""
    return Rows(queries @ carry.sums, queries.new_zeros(()))


def causal_step(
    queries: Float[Tensor, "b hk gc f"],
    keys: Float[Tensor, "b hk c f"],
    values: Float[Tensor, "b hk c dv1"],
    carry: Carry,
) -> tuple[Rows, Carry]:
    """Attends from a chunk to itself, causally, and to all that is carried; then carries the chunk too.

    Args:
        queries: features, the g query heads of a kv head one after another.
        keys: features, zero where masked.
        values: with the column of ones, zero where masked.
        carry: sums over the keys before the chunk.
    """
    scores = causal_scores(queries, keys)
    return Rows(fused_sums(scores, values, queries, carry.sums), queries.new_zeros(())), absorb(keys, values, carry)


def causal_scores(queries: Float[Tensor, "b hk gc f"], keys: Float[Tensor, "b hk c f"]) -> Float[Tensor, "b hk gc c"]:
    """Gives scores of a chunk with itself, zero where the key is later than the query."""
    size = keys.shape[-2]
    scores = torch.bmm(queries.flatten(0, 1), keys.flatten(0, 1).mT)
    by_head = scores if scores.shape[-2] == size else torch.unflatten(scores, -2, (-1, size))
    by_head.tril_()
    return scores.view(*queries.shape[:-1], size)


def fused_sums(
    scores: Float[Tensor, "b hk gc c"],
    values: Float[Tensor, "b hk c dv1"],
    queries: Float[Tensor, "b hk gc f"],
    carried: Float[Tensor, "b hk f dv1"],
) -> Float[Tensor, "b hk gc dv1"]:
    """Gives scores·values + queries·carried, the second product added into the first."""
    within = torch.bmm(scores.flatten(0, 1), values.flatten(0, 1))
    sums = torch.baddbmm(within, queries.flatten(0, 1), carried.flatten(0, 1))
    return sums.view(*scores.shape[:-1], values.shape[-1])

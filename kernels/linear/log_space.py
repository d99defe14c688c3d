"""Steps of linear attention on log features: sums of exp(log φ(q) + log φ(k)) that neither overflow nor look ahead.

A shift per feature, taken off the keys and put on the query's exponent, cancels; so does a shift per query. (A shift
per key would not.) Shifts are maxima over keys that the query sees, so its largest term is never lost; they carry no
gradient.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ..state import EMPTY_LOG
from . import plain_space
from .plain_space import causal_scores, fused_sums
from .spill import first_seen, merge, query_weights, spilled_sums
from .sums import Carry, Rows

HEADROOM = {torch.float32: 40.0, torch.float64: 320.0}
"""Nats a key may stand above the shift: under half the logarithm of the largest number, so that sums over a chunk stay
finite and whatever the query's weight loses is smaller than the inverse of that number's root, relative to the row."""


def absorb(keys: Float[Tensor, "b hk c f"], values: Float[Tensor, "b hk c dv1"], carry: Carry) -> Carry:
    """Adds keys to the carried sums, which are rescaled where a feature's maximum grows."""
    grown = torch.maximum(carry.log_scale, keys.detach().amax(-2))
    kept = carry.sums * (carry.log_scale - grown).exp()[..., None]
    added = (keys - grown[..., None, :]).exp_()
    return plain_space.absorb(added, values, Carry(kept, grown))


def apply(queries: Float[Tensor, "b hk gc f"], carry: Carry) -> Rows:
    """Reads the carried sums."""
    weights, scale = query_weights(queries, carry.log_scale[..., None, :])
    return Rows(weights @ carry.sums, scale)


def causal_step(
    queries: Float[Tensor, "b hk gc f"],
    keys: Float[Tensor, "b hk c f"],
    values: Float[Tensor, "b hk c dv1"],
    carry: Carry,
) -> tuple[Rows, Carry]:
    """Attends from a chunk to itself, causally, and to all that is carried; then carries the chunk too.

    The shift is the running maximum from before the chunk, or the chunk's first key where nothing came before: every
    query that sees anything sees those keys, so no later token reaches an earlier one, not even by rounding. Entries of
    keys that stand more than `HEADROOM` above the shift are left out here and added by `spilled_sums`; they are rare,
    and a row that sees none of them is the same to the bit whether or not a later row does.

    Args:
        queries: log features, the g query heads of a kv head one after another.
        keys: log features, `EMPTY_LOG` where masked.
        values: with the column of ones, zero where masked.
        carry: sums over the keys before the chunk.
    """
    shift = torch.where(carry.log_scale > EMPTY_LOG / 2, carry.log_scale, first_seen(keys.detach()))
    highest = keys.detach().amax(-2)
    height = keys - shift[..., None, :]
    weights, scale = query_weights(queries, shift[..., None, :])
    if bool((highest - shift > HEADROOM[keys.dtype]).any()):
        spilled = height.detach() > HEADROOM[keys.dtype]
        scores = causal_scores(weights, height.masked_fill(spilled, EMPTY_LOG).exp_())
        rows = Rows(fused_sums(scores, values, weights, carry.sums), scale)
        return merge(rows, spilled_sums(queries, keys, values, spilled)), absorb(keys, values, carry)
    key_weights = height.exp_()
    rows = Rows(fused_sums(causal_scores(weights, key_weights), values, weights, carry.sums), scale)
    grown = torch.maximum(carry.log_scale, highest)
    sums = plain_space.absorb(key_weights, values, carry).sums
    return rows, Carry(sums * (shift - grown).exp()[..., None], grown)

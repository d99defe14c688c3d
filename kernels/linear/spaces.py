"""Steps of linear attention on features as they are, and on their logarithms.

In log space sums of exp(log φ(q) + log φ(k)) neither overflow nor look ahead. A shift per feature, taken off the keys
and put on the query's exponent, cancels; so does a shift per query. (A shift per key would not.) Shifts are maxima over
keys that the query sees, so its largest term is never lost; they carry no gradient.

Sizes: r is batch times kv heads, c the tokens of a chunk; the g query heads of a kv head stand one after another.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..state import EMPTY_LOG
from .memory import FRESH, Memory
from .spill import constant, first_seen, merge, query_weights, spilled_sums
from .sums import Carry, Rows

HEADROOM = {torch.float32: 40.0, torch.float64: 320.0}
"""Nats a key may stand above the shift: under half the logarithm of the largest number, so that sums over a chunk stay
finite and whatever the query's weight loses is smaller than the inverse of that number's root, relative to the row."""


class Tokens(NamedTuple):
    """Reads a run of tokens; a step reads each side just before it works on it, while it is in cache.

    Attributes:
        queries: gives features [r gc f], or their logarithms.
        keys: gives features [r c f], zero where masked, or their logarithms, `EMPTY_LOG` where masked.
        values: gives [r c dv+1], zero where masked, with a column of ones.
    """

    queries: Callable[[], Tensor]
    keys: Callable[[], Tensor]
    values: Callable[[], Tensor]


class PlainSpace:
    """Steps on features as they are; they write to `memory` what the next chunk may overwrite."""

    def absorb(self, tokens: Tokens, carry: Carry, memory: Memory = FRESH) -> Carry:
        """Adds keys to the carried sums."""
        return Carry(_added(carry.sums, tokens.keys(), tokens.values(), memory), carry.log_scale)

    def apply(self, tokens: Tokens, carry: Carry, memory: Memory = FRESH) -> Rows:
        """Reads the carried sums with queries."""
        return Rows(_read(tokens.queries(), carry, memory), carry.log_scale)

    def causal_step(self, tokens: Tokens, carry: Carry, memory: Memory = FRESH) -> tuple[Rows, Carry]:
        """Attends from a chunk to itself, causally, and to the keys carried; then carries the chunk too."""
        keys, queries, values = tokens.keys(), tokens.queries(), tokens.values()
        rows = _causal_rows(queries, keys, values, carry, memory)
        return Rows(rows, carry.log_scale), Carry(_added(carry.sums, keys, values, memory), carry.log_scale)


class LogSpace:
    """Steps on logarithms of features; they write to `memory` what the next chunk may overwrite."""

    def absorb(self, tokens: Tokens, carry: Carry, memory: Memory = FRESH) -> Carry:
        """Adds keys to the carried sums, which are rescaled where a feature's maximum grows."""
        keys = tokens.keys()
        grown = _grown(carry, keys)
        weights = key_weights(keys, grown, memory)
        kept = torch.mul(carry.sums, (carry.log_scale - grown).exp().mT, out=memory("sums", *carry.sums.shape))
        sums = torch.baddbmm(kept, weights.mT, tokens.values(), out=kept if memory else None)
        return Carry(sums, grown)

    def apply(self, tokens: Tokens, carry: Carry, memory: Memory = FRESH) -> Rows:
        """Reads the carried sums with queries."""
        weights, scale = query_weights(tokens.queries(), carry.log_scale, memory)
        return Rows(_read(weights, carry, memory), scale)

    def causal_step(self, tokens: Tokens, carry: Carry, memory: Memory = FRESH) -> tuple[Rows, Carry]:
        """Attends from a chunk to itself, causally, and to the keys carried; then carries the chunk too.

        Entries of keys that stand more than `HEADROOM` above the shift are left out at first and added by
        `spilled_sums`; they are rare, and a row that sees none of them is the same to the bit whether or not a later
        row does.
        """
        keys = tokens.keys()
        shift, complete = causal_shift(keys, carry)
        grown = _grown(carry, keys)
        height = grown - shift
        if towers(height):
            return self._spilled_step(tokens, keys, shift, carry)
        keys = key_weights(keys, shift, memory)
        queries, scale = query_weights(tokens.queries(), shift, memory)
        values = tokens.values()
        rows = _causal_rows(queries, keys, values, carry, memory)
        sums = _added(carry.sums, keys, values, memory).mul_(height.neg_().exp_().mT)
        return Rows(rows, scale), Carry(sums, grown, complete)

    def _spilled_step(self, tokens: Tokens, keys: Tensor, shift: Tensor, carry: Carry) -> tuple[Rows, Carry]:
        queries, values, height = tokens.queries(), tokens.values(), keys - shift
        spilled = height.detach() > HEADROOM[keys.dtype]
        weights, scale = query_weights(queries, shift)
        within = _causal_rows(weights, height.masked_fill(spilled, EMPTY_LOG).exp_(), values, carry)
        rows = merge(Rows(within, scale), spilled_sums(queries, keys, values, spilled))
        return rows, self.absorb(Tokens(lambda: queries, lambda: keys, lambda: values), carry)


SPACES: dict[bool, PlainSpace | LogSpace] = {False: PlainSpace(), True: LogSpace()}
"""By whether features are given as logarithms."""


def causal_scores(
    queries: Float[Tensor, "r gc f"], keys: Float[Tensor, "r c f"], memory: Memory = FRESH
) -> Float[Tensor, "r gc c"]:
    """Multiplies a chunk with itself, zero where the key is later than the query."""
    size = keys.shape[1]
    scores = torch.bmm(queries, keys.mT, out=memory("scores", *queries.shape[:2], size))
    (scores if queries.shape[1] == size else scores.view(scores.shape[0], -1, size, size)).tril_()
    return scores


def key_weights(
    keys: Float[Tensor, "r c f"], shift: Float[Tensor, "r 1 f"], memory: Memory = FRESH
) -> Float[Tensor, "r c f"]:
    """The weights exp(keys - shift)."""
    return torch.sub(keys, shift, out=memory("key_weights", *keys.shape)).exp_()


def causal_shift(keys: Float[Tensor, "r c f"], carry: Carry) -> tuple[Float[Tensor, "r 1 f"], bool]:
    """The maxima over the keys before a chunk, or the chunk's first key where nothing came before.

    Every query that sees anything sees those keys, so no later token reaches an earlier one, not even by rounding. Also
    tells whether every feature came before.
    """
    if carry.complete:
        return carry.log_scale, True
    seen = carry.log_scale > EMPTY_LOG / 2
    if bool(seen.all()):
        return carry.log_scale, True
    return torch.where(seen, carry.log_scale, first_seen(constant(keys))), False


def towers(height: Float[Tensor, "r 1 f"]) -> bool:
    """Tells whether a chunk's maxima stand more than `HEADROOM` above its shift."""
    return float(height.max()) > HEADROOM[height.dtype]


def _read(queries: Tensor, carry: Carry, memory: Memory) -> Tensor:
    return torch.bmm(queries, carry.sums, out=memory("rows", *queries.shape[:2], carry.sums.shape[2]))


def _added(sums: Tensor, keys: Tensor, values: Tensor, memory: Memory) -> Tensor:
    return torch.baddbmm(sums, keys.mT, values, out=memory("sums", *sums.shape))


def _causal_rows(queries: Tensor, keys: Tensor, values: Tensor, carry: Carry, memory: Memory = FRESH) -> Tensor:
    within = torch.bmm(
        causal_scores(queries, keys, memory), values, out=memory("rows", *queries.shape[:2], values.shape[2])
    )
    return torch.baddbmm(within, queries, carry.sums, out=within if memory else None)


def _grown(carry: Carry, keys: Tensor) -> Tensor:
    return torch.maximum(carry.log_scale, constant(keys).amax(1, keepdim=True))

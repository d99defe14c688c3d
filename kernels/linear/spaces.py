"""Steps of linear attention on features as they are, and on their logarithms.

In log space sums of exp(log φ(q) + log φ(k)) neither overflow nor depend on later keys. A shift per feature, taken off
the keys and added to the query's exponent, cancels; so does a shift per query. (A shift per key would not.) Shifts come
from keys that the query sees, so its largest term does not underflow; they carry no gradient.

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
"""Nats by which a log feature may exceed the shift. It is below half the logarithm of the type's largest number L: sums
over a chunk stay finite, and a query weight that underflows loses less than 1/√L of its row."""


class Tokens(NamedTuple):
    """Reads a run of tokens; a step reads queries, keys and values just before it uses them, so that they are in cache.

    Attributes:
        queries: gives features [r gc f], or their logarithms.
        keys: gives features [r c f], zero where masked, or their logarithms, `EMPTY_LOG` where masked.
        values: gives [r c dv+1], zero where masked, with a column of ones.
    """

    queries: Callable[[], Tensor]
    keys: Callable[[], Tensor]
    values: Callable[[], Tensor]


class PlainSpace:
    """Steps on features as they are; results that the next chunk may overwrite are written to `memory`."""

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
    """Steps on logarithms of features; results that the next chunk may overwrite are written to `memory`."""

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

        Log features of keys that exceed the shift by more than `HEADROOM` are rare; `spilled_sums` adds their part
        separately. A row that sees none of them is the same to the bit whether or not a later row sees one.
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
    """The products of a chunk's queries and keys, zero where the key is later than the query."""
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
    """The shift of a chunk: the maxima over the keys before it or, where there are none, its first real key.

    Every query that sees a key sees these keys, so no later token affects an earlier one, not even by rounding.

    Returns:
        The shift, and whether real keys came before the chunk in every row.
    """
    if carry.complete:
        return carry.log_scale, True
    seen = carry.log_scale > EMPTY_LOG / 2
    if bool(seen.all()):
        return carry.log_scale, True
    return torch.where(seen, carry.log_scale, first_seen(constant(keys))), False


def towers(height: Float[Tensor, "r 1 f"]) -> bool:
    """Whether a chunk's maxima exceed its shift by more than `HEADROOM`."""
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

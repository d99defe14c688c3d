"""One call of linear attention, as the passes that go through it chunk by chunk in cache read it."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..maps.token_maps import TokenMap
from ..state import EMPTY_LOG


class ChunkOptions(NamedTuple):
    """What is not a tensor; as of `linear_chunk.linear_attention_chunk`."""

    causal: bool
    normalize: bool
    eps: float
    log_space: bool
    chunk_size: int


@dataclass(frozen=True)
class ChunkedCall:
    """What a call was given.

    Attributes:
        q: what the first map takes.
        k: what the second map takes; query head i uses kv head i // (h / hk).
        v: values.
        mask: true where a key is a real token.
        maps: of queries and of keys.
        options: what is not a tensor.
    """

    q: Float[Tensor, "b h n d"]
    k: Float[Tensor, "b hk m d"]
    v: Float[Tensor, "b hk m dv"]
    mask: Bool[Tensor, "b m"] | None
    maps: tuple[TokenMap, TokenMap]
    options: ChunkOptions

    @property
    def earlier(self) -> int:
        """Keys that every query sees: those before the first query, or all of a call that is not causal."""
        return self.k.shape[2] - self.q.shape[2] if self.options.causal else self.k.shape[2]

    def earlier_runs(self) -> list[slice]:
        """Gives the keys that every query sees, so many at a time."""
        return _runs(self.earlier, self.options.chunk_size)

    def query_runs(self) -> list[slice]:
        """Gives the chunks that queries are attended in."""
        return _runs(self.q.shape[2], self.options.chunk_size)

    def keys_of(self, queries: slice) -> slice:
        """Gives the keys that stand at the tokens of these queries in a causal call."""
        return slice(queries.start + self.earlier, queries.stop + self.earlier)


class ChunkMemory:
    """Tensors that every chunk of as many tokens uses again, and the views of them that the steps take.

    The batch and its kv heads are one dimension r, the g query heads of a kv head stand one after another. Fresh memory
    in every chunk took 1.2 times as long forward and 1.3 times both ways in a trial, views made anew 1.3 and 1.2 times
    (Hedgehog's map `exp`, B=1, H=8, d=64, 8,192 tokens, float32, two threads, torch 2.13).

    Attributes:
        values: [r c dv1], the last column ones.
        scores: [r gc c].
        rows: [r gc dv1], sums that queries see.
    """

    def __init__(self, like: Float[Tensor, "r f dv1"], groups: int, tokens: int) -> None:
        """Makes room for so many tokens, where the sums are like these."""
        rows, _, columns = like.shape
        self.values = like.new_ones(rows, tokens, columns)
        self.numbers, self.ones = torch.split(self.values, [columns - 1, 1], -1)
        self.scores = like.new_empty(rows, groups * tokens, tokens)
        self.scores_by_head = self.scores.view(rows * groups, tokens, tokens)
        self.rows = like.new_empty(rows, groups * tokens, columns)
        by_head = self.rows.view(rows * groups, tokens, columns)
        self.numerators, self.denominators = torch.split(by_head, [columns - 1, 1], -1)


class ChunkReader:
    """Features, values and weights of any run of a call's tokens, in memory that is used again.

    A query gives a key the weight queries·keys·exp(scale). In log space a shift per feature is taken off the keys and
    put on the queries, as `log_space` explains.
    """

    def __init__(self, call: ChunkedCall, sums: Float[Tensor, "r f dv1"]) -> None:
        """Reads a call whose sums are like these."""
        self._call = call
        self._sums = sums
        self._groups = call.q.shape[1] // call.k.shape[1]
        self._values = call.v.flatten(0, 1)
        mask = call.mask
        self._padding = None if mask is None else ~mask.repeat_interleave(call.k.shape[1], 0)[..., None]
        self._memories: dict[int, ChunkMemory] = {}
        self.query_map = call.maps[0].reader(call.q, sums.dtype)
        self.key_map = call.maps[1].reader(call.k, sums.dtype)

    def memory(self, at: slice) -> ChunkMemory:
        """Gives the memory for as many tokens."""
        tokens = at.stop - at.start
        if tokens not in self._memories:
            self._memories[tokens] = ChunkMemory(self._sums, self._groups, tokens)
        return self._memories[tokens]

    def keys(self, at: slice) -> Float[Tensor, "r c f"]:
        """Gives the features of keys, zero where masked, or their logarithms, `EMPTY_LOG` where masked."""
        keys = self.key_map.read(at)
        if self._padding is None:
            return keys
        return keys.masked_fill(self._padding[:, at], EMPTY_LOG if self._call.options.log_space else 0.0)

    def less_shift(self, keys: Float[Tensor, "r c f"], shift: Float[Tensor, "r 1 f"]) -> Float[Tensor, "r c f"]:
        """Gives how far logarithms of keys, as `keys` gave them, stand above the shift; may change them."""
        return keys.sub_(shift) if self.key_map.owned or self._padding is not None else keys - shift

    def key_weights(self, at: slice, shift: Float[Tensor, "r 1 f"] | None) -> Float[Tensor, "r c f"]:
        """Gives the weights of keys; where masked zero, or any number up to 1."""
        keys = self.keys(at)
        return keys if shift is None else self.less_shift(keys, shift).exp_()

    def queries(self, at: slice) -> Float[Tensor, "r gc f"]:
        """Gives the features of queries, or their logarithms."""
        return self.by_kv_head(self.query_map.read(at))

    def query_weights(self, at: slice, shift: Float[Tensor, "r 1 f"] | None) -> tuple[Float[Tensor, "r gc f"], Tensor]:
        """Gives the weights of queries, and the logarithm [r gc 1] taken off so that a row's largest is 1, or zero."""
        queries = self.queries(at)
        if shift is None:
            return queries, queries.new_zeros(())
        queries = queries.add_(shift) if self.query_map.owned else queries + shift
        scale = queries.amax(-1, keepdim=True)
        return queries.sub_(scale).exp_(), scale

    def values(self, at: slice) -> Float[Tensor, "r c dv1"]:
        """Gives values with a column of ones; zero where masked."""
        memory = self.memory(at)
        memory.numbers.copy_(self._values[:, at])
        if self._padding is None:
            return memory.values
        memory.ones.fill_(1.0)
        return memory.values.masked_fill_(self._padding[:, at], 0.0)

    def scores(
        self, at: slice, queries: Float[Tensor, "r gc f"], keys: Float[Tensor, "r c f"]
    ) -> Float[Tensor, "r gc c"]:
        """Gives queries·keys of a chunk with itself, zero where the key is later than the query."""
        memory = self.memory(at)
        torch.bmm(queries, keys.mT, out=memory.scores)
        memory.scores_by_head.tril_()
        return memory.scores

    def without_padding(self, x: Float[Tensor, "r c _"], at: slice) -> Float[Tensor, "r c _"]:
        """Gives zero where masked."""
        return x if self._padding is None else x.masked_fill(self._padding[:, at], 0.0)

    def by_kv_head(self, x: Float[Tensor, "bh c f"]) -> Float[Tensor, "r gc f"]:
        """Puts the query heads of a kv head one after another; a view of what is contiguous."""
        return x if self._groups == 1 else torch.unflatten(x, 0, (-1, self._groups)).flatten(1, 2)

    def by_query_head(self, x: Float[Tensor, "r gc f"]) -> Float[Tensor, "bh c f"]:
        """Undoes `by_kv_head`."""
        return x if self._groups == 1 else torch.unflatten(x, 1, (self._groups, -1)).flatten(0, 1)


def _runs(tokens: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]

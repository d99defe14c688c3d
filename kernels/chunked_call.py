"""One call of linear attention, as the passes that go through it chunk by chunk in cache read it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .scratch import Scratch
from .state import EMPTY_LOG
from .token_maps import TokenMap


class ChunkOptions(NamedTuple):
    """What is not a tensor; as of `linear_chunk.linear_attention_chunk`."""

    causal: bool
    normalize: bool
    eps: float
    log_space: bool
    chunk_size: int


@dataclass(frozen=True)
class ChunkedCall:
    """What a call was given, and the features and values of any run of its tokens.

    Attributes:
        q: what the first map takes.
        k: what the second map takes; query head i uses kv head i // (h / hk).
        v: values.
        mask: true where a key is a real token.
        maps: of queries and of keys.
        options: what is not a tensor.
        scratch: memory for what lives no longer than a chunk; its type is that of all sums.
    """

    q: Float[Tensor, "b h n d"]
    k: Float[Tensor, "b hk m d"]
    v: Float[Tensor, "b hk m dv"]
    mask: Bool[Tensor, "b m"] | None
    maps: tuple[TokenMap, TokenMap]
    options: ChunkOptions
    scratch: Scratch

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Those of both maps."""
        return (*self.maps[0].parameters, *self.maps[1].parameters)

    @property
    def groups(self) -> int:
        """Query heads of a kv head."""
        return self.q.shape[1] // self.k.shape[1]

    @property
    def earlier(self) -> int:
        """Keys that every query sees: those before the first query, or all of a call that is not causal."""
        return self.k.shape[2] - self.q.shape[2] if self.options.causal else self.k.shape[2]

    def earlier_runs(self) -> Iterator[slice]:
        """Goes through the keys that every query sees."""
        return _runs(self.earlier, self.options.chunk_size)

    def query_runs(self) -> list[slice]:
        """Gives the chunks that queries are attended in."""
        return list(_runs(self.q.shape[2], self.options.chunk_size))

    def keys_of(self, queries: slice) -> slice:
        """Gives the keys that stand at the tokens of these queries in a causal call."""
        return slice(queries.start + self.earlier, queries.stop + self.earlier)

    def values(self, at: slice) -> Float[Tensor, "b hk c dv1"]:
        """Gives values with a column of ones, in scratch memory; zero where masked."""
        v = self.v[:, :, at]
        values = self.scratch("values", *v.shape[:3], v.shape[3] + 1)
        values[..., :-1].copy_(v)
        values[..., -1:].fill_(1.0)
        return values if self.mask is None else values.masked_fill_(self.padding(at), 0.0)

    def padding(self, at: slice) -> Bool[Tensor, "b 1 c 1"]:
        """Gives true where a key is no real token."""
        assert self.mask is not None
        return ~self.mask[:, None, at, None]

    def keys(self, at: slice) -> Float[Tensor, "b hk c f"]:
        """Gives the features of keys, zero where masked, or logarithms; may be what was given, or scratch memory."""
        keys = self.maps[1].read(self.k[:, :, at], at, self.scratch, "keys")
        empty = EMPTY_LOG if self.options.log_space else 0.0
        return keys if self.mask is None else keys.masked_fill(self.padding(at), empty)

    def queries(self, at: slice) -> Float[Tensor, "b h c f"]:
        """Gives the features of queries, or their logarithms; may be what was given, or scratch memory."""
        return self.maps[0].read(self.q[:, :, at], at, self.scratch, "queries")

    def by_kv_head(self, x: Float[Tensor, "b h c f"]) -> Float[Tensor, "b hk gc f"]:
        """Puts the query heads of a kv head one after another; a view of what is contiguous."""
        return x if self.groups == 1 else torch.unflatten(x, 1, (-1, self.groups)).flatten(2, 3)

    def by_query_head(self, x: Float[Tensor, "b hk gc f"]) -> Float[Tensor, "b h c f"]:
        """Undoes `by_kv_head`."""
        return x if self.groups == 1 else torch.unflatten(x, 2, (self.groups, -1)).flatten(1, 2)


def _runs(tokens: int, size: int) -> Iterator[slice]:
    for start in range(0, tokens, size):
        yield slice(start, min(start + size, tokens))

"""The steps of linear attention through the chunks of a call, followed by autograd or in reused buffers.

Chunks run one after another with gradients too. The usual form for training, vectorised over all chunks, holds every
chunk's state and scores at once and was slower: forward and backward took 391 ms, against 307 ms here, at 8192 tokens,
and 82 ms against 77 ms at 2048 (B=1, H=8, f=128, dv=64, chunks of 128, float32, CPU time of one thread, best of 6,
torch 2.13).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..linear.memory import FRESH, Memory
from ..linear.spaces import SPACES, Tokens
from ..linear.sums import Carry, Rows, carry_from_state
from ..maps.token_maps import GIVEN, FollowedReader
from ..state import EMPTY_LOG
from .call import ChunkedCall

Finished = TypeVar("Finished")

Runs = tuple[list[slice], list[slice]]
"""Runs of tokens: of the queries, and of the keys and values."""


def first_carry(call: ChunkedCall) -> Carry:
    """The sums over the keys before those of a call, from its initial state.

    Raises:
        ValueError: the initial state does not fit `log_space`.
    """
    keys = call.k if call.maps is None else call.maps[1](call.k[:, :, :0], slice(0, 0))
    return carry_from_state(call.initial_state, keys, call.v, call.log_space)


def attend_by_steps(
    call: ChunkedCall, carry: Carry, finish: Callable[[Rows], Finished]
) -> tuple[list[Finished], Carry]:
    """Runs the chunks so that autograd can follow.

    Args:
        call: the call.
        carry: sums over the keys before these.
        finish: computes the result of a chunk from the sums [bh c dv+1] that its queries see.

    Returns:
        The results of the chunks, and the sums after the last key.
    """
    chunks = Chunks(call, carry, FRESH)
    return [finish(rows) for _, rows, _ in chunks], chunks.carry


class TokenReader:
    """Features and values of any run of a call's tokens.

    The batch and its kv heads are one dimension r; the g query heads of a kv head stand one after another.

    Attributes:
        query_map: reads the queries of each head.
        key_map: reads the keys of each head.
    """

    def __init__(self, call: ChunkedCall, dtype: torch.dtype, memory: Memory, runs: Runs | None = None) -> None:
        """Reads the tokens of a call.

        Args:
            call: the call.
            dtype: type of the features and values that are read.
            memory: buffers for them.
            runs: runs of queries and of keys that will be read, if autograd is to follow; None if not.
        """
        query_map, key_map = call.maps or (GIVEN, GIVEN)
        if runs is None:
            self.query_map, self.key_map = query_map.reader(call.q, dtype), key_map.reader(call.k, dtype)
            values = call.v.flatten(0, 1)
            self._numbers: Callable[[slice], Tensor] = lambda at: values[:, at]
        else:
            self.query_map = FollowedReader(query_map, call.q, dtype, runs[0])
            self.key_map = FollowedReader(key_map, call.k, dtype, runs[1])
            self._numbers = FollowedReader(GIVEN, call.v, call.v.dtype, runs[1]).read
        self._dtype = dtype
        self._rows = call.k.shape[0] * call.k.shape[1]
        self._grouped = call.q.shape[1] != call.k.shape[1]
        self._hidden = EMPTY_LOG if call.log_space else 0.0
        self._memory = memory
        mask = call.key_padding_mask
        self._padding = None if mask is None else ~mask.repeat_interleave(call.k.shape[1], 0)[..., None]

    def tokens(self, queries: slice, keys: slice) -> Tokens:
        """Functions that read these queries and keys when a step calls them."""
        return Tokens(partial(self.queries, queries), partial(self.keys, keys), partial(self.values, keys))

    def queries(self, at: slice) -> Float[Tensor, "r gc f"]:
        """The features of queries, or their logarithms."""
        features = self.query_map.read(at)
        queries = features.reshape(self._rows, -1, features.shape[2]) if self._grouped else features
        if self.query_map.owned:
            self._memory.lend("query_weights", queries)
        return queries

    def keys(self, at: slice) -> Float[Tensor, "r c f"]:
        """The features of keys, zero where masked, or their logarithms, `EMPTY_LOG` where masked."""
        keys = self.hide(self.key_map.read(at), at, self._hidden)
        if self.key_map.owned or self._padding is not None:
            self._memory.lend("key_weights", keys)
        return keys

    def values(self, at: slice) -> Float[Tensor, "r c dv1"]:
        """Values with a column of ones; zero where masked."""
        numbers = self._numbers(at)
        if self._memory:
            rows, tokens, columns = numbers.shape
            values, place, _ = self._memory.parts("values", rows, tokens, columns + 1)
            place.copy_(numbers)
        else:
            values = F.pad(numbers.to(self._dtype), (0, 1), value=1.0)
        return self.hide(values, at)

    def hide(self, x: Float[Tensor, "r c _"], at: slice, value: float = 0.0) -> Float[Tensor, "r c _"]:
        """The tensor with `value` where keys are masked."""
        return x if self._padding is None else x.masked_fill(self._padding[:, at], value)


class Chunks:
    """Iterates over the chunks of a call; yields a run of queries, the sums that they see, and the sums before them.

    Attributes:
        carry: sums over the keys of the chunks so far.
    """

    def __init__(self, call: ChunkedCall, carry: Carry, memory: Memory) -> None:
        """Starts before the first key.

        Args:
            call: the call.
            carry: sums over the keys before these.
            memory: buffers for results that the next chunk may overwrite.
        """
        self.carry = carry
        self._call = call
        self._memory = memory
        self._one_by_one = not memory and call.chunk_size == 1
        # Without reused buffers, the keys that every query sees are one run, and so are the queries of a call that is
        # not causal, unless maps have to be applied chunk by chunk.
        at_once = not memory and not self._one_by_one and (call.causal or call.maps is None)
        size = max(1, call.k.shape[2], call.q.shape[2]) if at_once else call.chunk_size
        self._shared, self._queries = call.shared_runs(size), call.query_runs(call.chunk_size if call.causal else size)
        self._keys = [call.keys_of(at) for at in self._queries]
        keys = self._shared + (self._keys if call.causal else [])
        self._reader = TokenReader(call, carry.sums.dtype, memory, None if memory else (self._queries, keys))

    def __iter__(self) -> Iterator[tuple[slice, Rows, Carry]]:
        """Adds the keys that all queries see to the sums, then runs the queries chunk by chunk."""
        space, memory, causal = SPACES[self._call.log_space], self._memory, self._call.causal
        heads = self._call.q.shape[0] * self._call.q.shape[1]
        grouped = self._call.q.shape[1] != self._call.k.shape[1]
        for at in self._shared:
            self.carry = space.absorb(self._reader.tokens(at, at), self.carry, memory)
        for at, own in zip(self._queries, self._keys, strict=True):
            before, tokens = self.carry, self._reader.tokens(at, own)
            if causal and not self._one_by_one:
                rows, self.carry = space.causal_step(tokens, before, memory)
            else:
                self.carry = space.absorb(tokens, before, memory) if causal else before
                rows = space.apply(tokens, self.carry, memory)
            if grouped:
                rows = Rows(*(x.reshape(heads, -1, x.shape[-1]) if x.ndim else x for x in rows))
            yield at, rows, before

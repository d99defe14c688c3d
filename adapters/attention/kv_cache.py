"""The decode state of softmax attention: keys and values of past tokens, in buffers that double when they are full."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class KVCache:
    """Keys, values and padding mask of `length` tokens, in buffers of at least that capacity.

    Appending writes in place, so the old cache must not be used again.
    """

    key_buffer: Float[Tensor, "b hk capacity d"]
    value_buffer: Float[Tensor, "b hk capacity d"]
    mask_buffer: Bool[Tensor, "b capacity"] | None
    length: int

    @classmethod
    def empty(cls, like: Float[Tensor, "b hk n d"]) -> KVCache:
        """A cache of no tokens, for keys of this shape, type and device."""
        none = like[:, :, :0]
        return cls(none, none, None, 0)

    @property
    def keys(self) -> Float[Tensor, "b hk m d"]:
        """Keys of the cached tokens."""
        return self.key_buffer[:, :, : self.length]

    @property
    def values(self) -> Float[Tensor, "b hk m d"]:
        """Values of the cached tokens."""
        return self.value_buffer[:, :, : self.length]

    @property
    def mask(self) -> Bool[Tensor, "b m"] | None:
        """True at real tokens; None without padding."""
        return None if self.mask_buffer is None else self.mask_buffer[:, : self.length]

    @property
    def bytes(self) -> int:
        """Bytes of the keys and values of the cached tokens; spare capacity and the mask are not counted."""
        return self.keys.nbytes + self.values.nbytes

    def append(
        self, k: Float[Tensor, "b hk n d"], v: Float[Tensor, "b hk n d"], mask: Bool[Tensor, "b n"] | None = None
    ) -> KVCache:
        """The cache with n more tokens; this cache must not be used again.

        Args:
            k: Keys of the new tokens.
            v: Values of the new tokens.
            mask: True at real tokens; None if all are.
        """
        length = self.length + k.shape[2]
        cache = self if length <= self.key_buffer.shape[2] else self._grown(length)
        if mask is not None and cache.mask_buffer is None:
            ones = torch.ones(k.shape[0], cache.key_buffer.shape[2], dtype=torch.bool, device=k.device)
            cache = replace(cache, mask_buffer=ones)
        cache.key_buffer[:, :, self.length : length] = k
        cache.value_buffer[:, :, self.length : length] = v
        if cache.mask_buffer is not None:
            cache.mask_buffer[:, self.length : length] = True if mask is None else mask
        return replace(cache, length=length)

    def select(self, rows: Int[Tensor, " r"], room: int) -> KVCache:
        """Copies of rows of the batch, with room for `room` more tokens."""

        def copied(buffer: Tensor, dim: int) -> Tensor:
            shape = (len(rows), *buffer.shape[1:dim], self.length + room, *buffer.shape[dim + 1 :])
            larger = buffer.new_empty(shape)
            torch.index_select(buffer.narrow(dim, 0, self.length), 0, rows, out=larger.narrow(dim, 0, self.length))
            return larger

        mask = None if self.mask_buffer is None else copied(self.mask_buffer, 1)
        return KVCache(copied(self.key_buffer, 2), copied(self.value_buffer, 2), mask, self.length)

    def last(self, tokens: int) -> KVCache:
        """The cache of the last `tokens` tokens; unchanged until it holds twice as many."""
        if self.length < 2 * tokens:
            return self
        keys, values = (buffer[:, :, -tokens:].clone() for buffer in (self.keys, self.values))
        return KVCache(keys, values, None if self.mask is None else self.mask[:, -tokens:].clone(), tokens)

    def _grown(self, length: int) -> KVCache:
        capacity = max(length, 2 * self.key_buffer.shape[2])

        def grown(buffer: Tensor, dim: int) -> Tensor:
            larger = buffer.new_empty(*buffer.shape[:dim], capacity, *buffer.shape[dim + 1 :])
            larger.narrow(dim, 0, self.length).copy_(buffer.narrow(dim, 0, self.length))
            return larger

        mask = None if self.mask_buffer is None else grown(self.mask_buffer, 1)
        return KVCache(grown(self.key_buffer, 2), grown(self.value_buffer, 2), mask, self.length)

"""The decode state of softmax attention: keys and values of the tokens seen, in a buffer that grows by doubling."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class KVCache:
    """Keys, values and padding mask of `length` tokens, held in buffers of at least that capacity.

    Appending writes in place, so the cache appended to must not be used again.
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
        """Keys of the tokens seen."""
        return self.key_buffer[:, :, : self.length]

    @property
    def values(self) -> Float[Tensor, "b hk m d"]:
        """Values of the tokens seen."""
        return self.value_buffer[:, :, : self.length]

    @property
    def mask(self) -> Bool[Tensor, "b m"] | None:
        """True at real tokens; None when none was padded."""
        return None if self.mask_buffer is None else self.mask_buffer[:, : self.length]

    @property
    def bytes(self) -> int:
        """Bytes of the keys and values of the tokens seen; spare capacity is not counted."""
        return self.keys.numel() * self.keys.element_size() + self.values.numel() * self.values.element_size()

    def append(
        self, k: Float[Tensor, "b hk n d"], v: Float[Tensor, "b hk n d"], mask: Bool[Tensor, "b n"] | None = None
    ) -> KVCache:
        """The cache with n more tokens."""
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

    def last(self, tokens: int) -> KVCache:
        """The cache of the last `tokens` tokens alone; kept until twice as many have gathered."""
        if self.length < 2 * tokens:
            return self
        mask = self.mask
        return KVCache(
            self.keys[:, :, -tokens:].clone(),
            self.values[:, :, -tokens:].clone(),
            None if mask is None else mask[:, -tokens:].clone(),
            tokens,
        )

    def _grown(self, length: int) -> KVCache:
        capacity = max(length, 2 * self.key_buffer.shape[2])
        return KVCache(
            _resized(self.key_buffer, self.length, capacity),
            _resized(self.value_buffer, self.length, capacity),
            None if self.mask_buffer is None else self._grown_mask(capacity),
            self.length,
        )

    def _grown_mask(self, capacity: int) -> Bool[Tensor, "b capacity"]:
        assert self.mask_buffer is not None
        grown = self.mask_buffer.new_ones(self.mask_buffer.shape[0], capacity)
        grown[:, : self.length] = self.mask_buffer[:, : self.length]
        return grown


def _resized(buffer: Tensor, length: int, capacity: int) -> Tensor:
    grown = buffer.new_empty(*buffer.shape[:2], capacity, buffer.shape[3])
    grown[:, :, :length] = buffer[:, :, :length]
    return grown

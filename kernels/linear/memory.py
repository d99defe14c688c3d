"""Buffers that every chunk of attention reuses."""

from torch import Tensor


class Memory:
    """Buffers by name and size, for the `out=` of torch's functions; without `like`, torch allocates results itself.

    With newly allocated memory in every chunk, the forward pass took 1.2 times as long, and forward and backward 1.3
    times (Hedgehog's map `exp`, B=1, H=8, d=64, 8,192 tokens, float32, two threads, torch 2.13).
    """

    def __init__(self, like: Tensor | None = None, lasting: tuple[str, ...] = ()) -> None:
        """Starts without any buffer.

        Args:
            like: a tensor of the buffers' type and device; None if autograd follows, which forbids `out=`.
            lasting: names of results that outlive a chunk and are therefore allocated.
        """
        self._like = like
        self._lasting = lasting
        self._tensors: dict[tuple[object, ...], Tensor] = {}
        self._parts: dict[tuple[object, ...], tuple[Tensor, Tensor, Tensor]] = {}

    def __bool__(self) -> bool:
        """Whether buffers are reused."""
        return self._like is not None

    def __call__(self, name: str, *size: int) -> Tensor | None:
        """The buffer for results of this name and size, or None if torch is to allocate the result.

        A new buffer holds ones, of which values keep their last column.
        """
        if self._like is None or name in self._lasting:
            return None
        key = (name, *size)
        if key not in self._tensors:
            self._tensors[key] = self._like.new_ones(size)
        return self._tensors[key]

    def parts(self, name: str, *size: int) -> tuple[Tensor, Tensor, Tensor]:
        """The buffer of this name and size, all of its columns but the last, and the last."""
        key = (name, *size)
        if key not in self._parts:
            tensor = self(name, *size)
            assert tensor is not None
            self._parts[key] = (tensor, tensor[..., :-1], tensor[..., -1:])
        return self._parts[key]

    def lend(self, name: str, tensor: Tensor) -> None:
        """Makes the tensor the buffer for results of this name and of its size."""
        if self._like is not None:
            self._tensors[(name, *tensor.shape)] = tensor


FRESH = Memory()
"""No buffers: torch allocates every result, and autograd can follow."""

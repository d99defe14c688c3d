"""Launches a Triton kernel with named arguments, on the device of its tensors, after a check of the grid's size."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

MAX_GRID = (2**31 - 1, 65_535, 65_535)
"""Largest number of programs along each axis of a grid in CUDA."""


def launch(kernel: Any, grid: tuple[int, ...], *, shared: Mapping[str, Any] | None = None, **own: Any) -> None:
    """Launches a kernel on the device of its first tensor, whichever device is current.

    Args:
        kernel: a function decorated with `triton.jit`, whose declared type takes neither tensors nor launch options.
        grid: programs along each axis.
        shared: arguments of several kernels; those that this kernel has no parameter for are left out.
        **own: all other arguments, and launch options; an argument here overrides one in `shared`.

    Raises:
        ValueError: more programs along an axis than CUDA allows.
    """
    if any(programs > limit for programs, limit in zip(grid, MAX_GRID, strict=False)):
        raise ValueError(f"{kernel.__name__} would need a grid of {grid} programs, CUDA starts up to {MAX_GRID}")
    arguments = own if shared is None else {name: shared[name] for name in kernel.arg_names if name in shared} | own
    first = next(x for x in arguments.values() if isinstance(x, Tensor))
    with torch.cuda.device(first.get_device() if first.is_cuda else -1):
        kernel[grid](**arguments)


def strides(**tensors: Tensor) -> dict[str, Any]:
    """The strides of batch, heads and tokens of tensors [b h n ..], as NAME_batch, NAME_head and NAME_row."""
    return {
        f"{name}_{axis}": tensor.stride(index)
        for name, tensor in tensors.items()
        for index, axis in enumerate(("batch", "head", "row"))
    }


def stand_in(tensor: Tensor | None, other: Tensor) -> Tensor:
    """The tensor, contiguous; or without one `other`, a placeholder that no kernel reads."""
    return other if tensor is None else tensor.contiguous()


def mask_bytes(mask: Tensor | None, other: Tensor) -> Tensor:
    """The mask as contiguous bytes; or without one `other`, a placeholder that no kernel reads."""
    return other if mask is None else mask.contiguous().view(torch.uint8)

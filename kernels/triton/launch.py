"""Launches a Triton kernel with named arguments, on the device of its tensors, after a check of the grid's size."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cache
from operator import itemgetter, le
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

_NOTHING: Mapping[str, Any] = MappingProxyType({})

MAX_GRID = (2**31 - 1, 65_535, 65_535)
"""Largest number of programs along each axis of a grid in CUDA."""


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    *,
    num_warps: int,
    num_stages: int,
    shared: Mapping[str, Any] = _NOTHING,
    **own: Any,
) -> None:
    """Launches a kernel on the device of its first argument, whichever device is current.

    Args:
        kernel: a function decorated with `triton.jit`, whose declared type takes neither tensors nor launch options;
            its first parameter is a tensor.
        grid: programs along each axis.
        num_warps: warps of a program.
        num_stages: stages of the software pipeline.
        shared: arguments of several kernels; those that this kernel has no parameter for are left out.
        **own: all other arguments; an argument here overrides one in `shared`.

    Raises:
        ValueError: more programs along an axis than CUDA allows.
        TypeError: an argument of its own that the kernel has no parameter for.
    """
    if not all(map(le, grid, MAX_GRID)):
        raise ValueError(f"{kernel.__name__} would need a grid of {grid} programs, CUDA starts up to {MAX_GRID}")
    names, in_order = _parameters(tuple(kernel.arg_names))
    if not own.keys() <= names:
        raise TypeError(f"{kernel.__name__} has no parameters {sorted(own.keys() - names)}")
    # Triton binds arguments by position in half the time that it takes by name.
    arguments = in_order({**shared, **own})
    first: Tensor = arguments[0]
    elsewhere = first.is_cuda and first.get_device() != torch.cuda.current_device()
    with torch.cuda.device(first.get_device()) if elsewhere else _HERE:
        kernel.run(*arguments, grid=grid, warmup=False, num_warps=num_warps, num_stages=num_stages)


_HERE = nullcontext()


@cache
def _parameters(names: tuple[str, ...]) -> tuple[frozenset[str], Callable[[Mapping[str, Any]], tuple[Any, ...]]]:
    """The names as a set, and what gets their values in order."""
    return frozenset(names), itemgetter(*names)


def strides(**tensors: Tensor) -> dict[str, Any]:
    """The strides of batch, heads and tokens of tensors [b h n ..], as NAME_batch, NAME_head and NAME_row."""
    found: dict[str, Any] = {}
    for name, tensor in tensors.items():
        found[name + "_batch"], found[name + "_head"], found[name + "_row"], _ = tensor.stride()
    return found


def stand_in(tensor: Tensor | None, other: Tensor) -> Tensor:
    """The tensor, contiguous; or without one `other`, a placeholder that no kernel reads."""
    return other if tensor is None else tensor.contiguous()


def mask_bytes(mask: Tensor | None, other: Tensor) -> Tensor:
    """The mask as contiguous bytes; or without one `other`, a placeholder that no kernel reads."""
    return other if mask is None else mask.contiguous().view(torch.uint8)

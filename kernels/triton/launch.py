"""Launches a Triton kernel with named arguments, on the device of its tensors, after a check of the grid's size."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cache
from operator import itemgetter, le
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..state import LinearState

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
            its first argument is a tuple that begins with a tensor.
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
    names, in_order = _parameters(kernel)
    if not own.keys() <= names:
        raise TypeError(f"{kernel.__name__} has no parameters {sorted(own.keys() - names)}")
    # Triton binds arguments by position in half the time that it takes by name.
    arguments = in_order({**shared, **own})
    first: Tensor = arguments[0][0]
    elsewhere = first.is_cuda and first.get_device() != torch.cuda.current_device()
    with torch.cuda.device(first.get_device()) if elsewhere else _HERE:
        kernel.run(*arguments, grid=grid, warmup=False, num_warps=num_warps, num_stages=num_stages)


_HERE = nullcontext()


@cache
def _parameters(kernel: Any) -> tuple[frozenset[str], Callable[[Mapping[str, Any]], tuple[Any, ...]]]:
    """The names of a kernel's parameters, and what gets their values in order."""
    return frozenset(kernel.arg_names), itemgetter(*kernel.arg_names)


def by_head(tensor: Tensor) -> tuple[Any, ...]:
    """A tensor [b h n ..] as kernels take it: beside the strides of batch, heads and tokens."""
    return tensor, *tensor.stride()[:3]


def sums_of(state: LinearState | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Sums as kernels take them: values, vectors and peaks, which are there in log space."""
    return (None, None, None) if state is None else (state.kv, state.k, state.log_scale)


def mask_bytes(mask: Tensor | None) -> Tensor | None:
    """A mask as kernels take it: contiguous bytes."""
    return None if mask is None else mask.contiguous().view(torch.uint8)

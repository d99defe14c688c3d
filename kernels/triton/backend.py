"""Chooses the backend of an operator: the reasons why its Triton kernels cannot run a call, and the choice."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec

import torch
from torch import Tensor

from ...results.names import unknown_name

BACKENDS = ("auto", "triton", "torch")

MAX_WIDTH = 256
"""Largest head dimension, value dimension, number of columns of W, and number of log features of the kernels."""

NARROW = 128
"""Largest value dimension and side of a map's matrix for which Hopper's shared memory has room, as the compiler reports
it: with operands of four bytes, and in bfloat16 for the form "fused_chunk", which holds two such matrices."""

HALVES_AND_SINGLE = (torch.bfloat16, torch.float16, torch.float32)

_HAS_TRITON = find_spec("triton") is not None


def obstacles(q: Tensor, dtypes: tuple[torch.dtype, ...] = HALVES_AND_SINGLE) -> Iterator[str]:
    """The reasons, other than sizes, why kernels for these types cannot run a call with these queries."""
    if q.device.type != "cuda":
        yield f"tensors are on {q.device.type}, the kernels run on cuda"
    if not _HAS_TRITON:
        yield "triton is not installed"
    if q.dtype not in dtypes:
        yield f"{q.dtype} is none of the types they take: {', '.join(str(each) for each in dtypes)}"


def chooses_triton(backend: str, why_not: Callable[[], str]) -> bool:
    """Whether the kernels run a call.

    Args:
        backend: "triton", "torch", or "auto" for the kernels if they can run the call.
        why_not: returns the reasons why the kernels cannot run the call, or ""; not called for the backend "torch".

    Raises:
        ValueError: an unknown backend, or "triton" where the kernels cannot run.
    """
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    obstacle = "" if backend == "torch" else why_not()
    if backend == "triton" and obstacle:
        raise ValueError(f"the Triton kernels cannot run this call: {obstacle}; choose backend 'auto' or 'torch'")
    return backend != "torch" and not obstacle

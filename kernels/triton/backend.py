"""Which backend runs an operator: what keeps its Triton kernels from a call, and the choice that follows."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec

import torch
from torch import Tensor

from ...results.names import unknown_name

BACKENDS = ("auto", "triton", "torch")

MAX_WIDTH = 256
"""Dimensions of heads and of values, columns of W, and log features that the kernels take at most."""

NARROW = 128
"""Columns of values, and sides of a map's matrix, that Hopper's shared memory has room for where operands are of four
bytes, and sides of two such matrices at once in bfloat16, by what the compiler says."""

HALVES_AND_SINGLE = (torch.bfloat16, torch.float16, torch.float32)

_HAS_TRITON = find_spec("triton") is not None


def obstacles(q: Tensor, dtypes: tuple[torch.dtype, ...] = HALVES_AND_SINGLE) -> Iterator[str]:
    """The reasons why none of our kernels can run a call with these queries."""
    if q.device.type != "cuda":
        yield f"tensors are on {q.device.type}, the kernels run on cuda"
    if not _HAS_TRITON:
        yield "triton is not installed"
    if q.dtype not in dtypes:
        yield f"{q.dtype} is none of the types they take: {', '.join(str(each) for each in dtypes)}"


def chooses_triton(backend: str, why_not: Callable[[], str]) -> bool:
    """Tells whether the kernels run a call.

    Args:
        backend: "auto" takes the kernels where they can run.
        why_not: gives the reasons why the kernels cannot run the call, or ""; not called for the backend "torch".

    Raises:
        ValueError: an unknown backend, or "triton" where the kernels cannot run.
    """
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    obstacle = "" if backend == "torch" else why_not()
    if backend == "triton" and obstacle:
        raise ValueError(f"the Triton kernels cannot run this call: {obstacle}; choose backend 'auto' or 'torch'")
    return backend != "torch" and not obstacle

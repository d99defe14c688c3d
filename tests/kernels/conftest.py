from collections.abc import Callable, Iterator
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from hedgebench.kernels.triton.tiles import interpreting

from .interpreter import derive_from_types_once, replace_the_language_once
from .other_process import OtherProcess, other_process

QKV = tuple[Tensor, Tensor, Tensor]

if interpreting() and find_spec("triton") is not None:
    replace_the_language_once()
    derive_from_types_once()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors here are too small to share out; threads that wait for a busy core only cost time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def unchecked() -> Iterator[OtherProcess]:
    """A process in which shapes are not checked: torch.compile does not look into the checker's code."""
    with other_process() as process:
        yield process


@pytest.fixture
def qkv() -> Callable[..., QKV]:
    """Draws queries [b h n f], keys [b hk m f] and values [b hk m dv], float64 unless told."""

    def draw(
        b: int = 2,
        h: int = 4,
        hk: int = 4,
        n: int = 13,
        m: int | None = None,
        f: int = 5,
        dv: int = 3,
        spread: float = 1.0,
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
    ) -> QKV:
        generator = torch.Generator().manual_seed(seed)
        keys = n if m is None else m
        shapes = ((b, h, n, f), (b, hk, keys, f), (b, hk, keys, dv))
        q, k, v = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes)
        return (q * spread).to(dtype), (k * spread).to(dtype), v.to(dtype)

    return draw

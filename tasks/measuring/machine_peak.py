"""What the machine can do at most, measured beside the kernels: a matrix product and a copy of memory.

Operands and bytes are random. Products of ones and copies of zeros switch fewer transistors, so that a device that is
bounded by its power runs them at higher clocks than it has for anything real.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ...results.record import Metric
from ..base import Row
from .timing import Repeats, time_calls

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MACHINE = "machine"
"""The mode of the point that measures the machine's peaks."""

TF32 = ("tf32", "tf32x3")
"""Products of float32 numbers on tensor cores: rounded to TF32, and as the sum of three products of TF32 parts."""

_SIDE = {"cpu": 2048, "cuda": 8192}
_COPIED_BYTES = {"cpu": 2**28, "cuda": 2**31}
_DRAWN_BYTES = 2**24
_REPEATS = Repeats(count=7, min_time_ms=0.0, warmup=3, max_call_s=60.0)


def measure_machine(device: torch.device, dtype: torch.dtype, products: str = "") -> Row:
    """Times of a square matrix product, and of a copy far larger than any cache, with their counts.

    Args:
        device: The machine.
        dtype: Type of the tensors that kernels get.
        products: What kernels make their products of: one of `TF32`, or the type itself.
    """
    import torch

    name = str(dtype).removeprefix("torch.")
    products = products or name
    side = _SIDE[device.type]
    generator = torch.Generator(device).manual_seed(0)
    operand = torch.float32 if products in TF32 else dtype
    left, right = (torch.randn(side, side, generator=generator, device=device).to(operand) for _ in range(2))
    with _tf32_allowed(products in TF32):
        gemm_ms = time_calls(lambda: left @ right, device, _REPEATS)
    source = _random_bytes(_COPIED_BYTES[device.type], device, generator)
    target = torch.empty_like(source)
    copy_ms = time_calls(lambda: target.copy_(source), device, _REPEATS)
    return {
        "gemm_samples_ms": gemm_ms,
        "gemm_flops": 2 * side**3 / (3 if products == "tf32x3" else 1),
        "copy_samples_ms": copy_ms,
        "copy_bytes": 2 * source.numel(),
        "dtype": name,
        "products": products,
    }


def machine_metrics(row: Row) -> list[Metric]:
    """The fastest of the samples, as whatever else runs can only slow them; so there is no standard error.

    Their coordinate `dtype` is what the product was made of.
    """
    gemm = [1e3 * row["gemm_flops"] / ms for ms in row["gemm_samples_ms"]]
    copy = [1e3 * row["copy_bytes"] / ms for ms in row["copy_samples_ms"]]
    at = {"dtype": row.get("products", row["dtype"])}
    return [
        Metric("machine_gemm_flops_per_s", max(gemm), "flop/s", None, None, len(gemm), at, samples=tuple(gemm)),
        Metric("machine_copy_bytes_per_s", max(copy), "bytes/s", None, None, len(copy), at, samples=tuple(copy)),
    ]


def _random_bytes(count: int, device: torch.device, generator: torch.Generator) -> Tensor:
    """Random bytes, of which no device can make use that they repeat after 16 MiB."""
    import torch

    drawn = torch.randint(-128, 128, (_DRAWN_BYTES,), dtype=torch.int8, generator=generator, device=device)
    return drawn.repeat(count // _DRAWN_BYTES)


@contextmanager
def _tf32_allowed(allowed: bool) -> Iterator[None]:
    """Lets torch make products of float32 in TF32 within the block."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if allowed else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)

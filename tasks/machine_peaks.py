"""What a machine can do at most, measured: matrix products and copies large enough to reach it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .timing import Repeats, time_calls

if TYPE_CHECKING:
    import torch

_REPEATS = Repeats(count=7, min_time_ms=100.0, warmup=5, max_call_s=60.0)
_PRODUCT_SIZE = {"cuda": 8192, "cpu": 1024}
_COPY_BYTES = {"cuda": 2**30, "cpu": 2**26}


@dataclass(frozen=True)
class MachinePeaks:
    """The best of several calls each.

    Attributes:
        flops_per_s: Of a product of two square matrices in the type asked for.
        bytes_per_s: Of copying a tensor far larger than any cache, reading and writing counted.
    """

    flops_per_s: float
    bytes_per_s: float


def measure_peaks(device: torch.device, dtype: torch.dtype) -> MachinePeaks:
    """Measures both; the matrices have 8,192 rows on CUDA and 1,024 on the CPU, the copy 1 GiB and 64 MiB."""
    import torch

    size, copied = _PRODUCT_SIZE[device.type], _COPY_BYTES[device.type]
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    source = torch.zeros(copied, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    product_ms = min(time_calls(lambda: left @ right, device, _REPEATS))
    copy_ms = min(time_calls(lambda: target.copy_(source), device, _REPEATS))
    return MachinePeaks(2.0 * size**3 / product_ms * 1e3, 2.0 * copied / copy_ms * 1e3)

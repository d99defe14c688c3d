"""What the machine can do at most, measured beside the kernels: a matrix product and a copy of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..results.record import Metric
from .base import Row
from .timing import Repeats, time_calls

if TYPE_CHECKING:
    import torch

MACHINE = "machine"
"""The mode of the point that measures the machine's peaks."""

_SIDE = {"cpu": 2048, "cuda": 8192}
_COPIED_BYTES = {"cpu": 2**28, "cuda": 2**31}
_REPEATS = Repeats(count=7, min_time_ms=0.0, warmup=3, max_call_s=60.0)


def measure_machine(device: torch.device, dtype: torch.dtype) -> Row:
    """Times of a square matrix product in `dtype`, and of a copy far larger than any cache, with their counts."""
    import torch

    side = _SIDE[device.type]
    left, right = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    gemm_ms = time_calls(lambda: left @ right, device, _REPEATS)
    source = torch.zeros(_COPIED_BYTES[device.type], dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    copy_ms = time_calls(lambda: target.copy_(source), device, _REPEATS)
    return {
        "gemm_samples_ms": gemm_ms,
        "gemm_flops": 2 * side**3,
        "copy_samples_ms": copy_ms,
        "copy_bytes": 2 * source.numel(),
        "dtype": str(dtype).removeprefix("torch."),
    }


def machine_metrics(row: Row) -> list[Metric]:
    """The fastest of the samples, as whatever else runs can only slow them; so there is no standard error."""
    gemm = [1e3 * row["gemm_flops"] / ms for ms in row["gemm_samples_ms"]]
    copy = [1e3 * row["copy_bytes"] / ms for ms in row["copy_samples_ms"]]
    at = {"dtype": row["dtype"]}
    return [
        Metric("machine_gemm_flops_per_s", max(gemm), "flop/s", None, None, len(gemm), at, samples=tuple(gemm)),
        Metric("machine_copy_bytes_per_s", max(copy), "bytes/s", None, None, len(copy), at, samples=tuple(copy)),
    ]

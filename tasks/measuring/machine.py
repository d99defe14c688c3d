"""The machine's own speed: its peaks, which kernels are compared with, and its pace between the modes of a sweep.

Peaks are those of a matrix product and a copy of memory. Operands and bytes are random: products of ones and copies of
zeros switch fewer transistors, so a device limited by its power runs them at higher clocks than real work.

The pace is the time of fixed work. Other programs, heat and clocks slow a machine down for minutes, which repetition
within those minutes does not show. Comparing the pace of two runs separates their machines from their models;
`bench compare` does so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ...results.record import Metric
from ..base import Row
from ..heavy import torch
from .metrics import median_metric
from .timing import Repeats, Stopwatch, measure_calls

MACHINE = "machine"
"""Mode of the point that measures the machine's peaks."""

PACE = "pace"
"""Mode of the points that measure the machine's pace."""

TF32 = ("tf32", "tf32x3")
"""Products of float32 numbers on tensor cores: rounded to TF32, and as the sum of three products of TF32 parts."""

_SIDE = {"cpu": 2048, "cuda": 8192}
_COPIED_BYTES = {"cpu": 2**28, "cuda": 2**31}
_DRAWN_BYTES = 2**24
_PEAK_REPEATS = Repeats(count=7, min_time_ms=0.0, warmup=3, max_call_s=60.0)

_SIZE, _SMALL, _CALLS, _NUMBERS = 512, 1 << 16, 100, 1 << 23
_PACE_REPEATS, _PACE_WARMUP, _MAX_CALL_S = 7, 2, 60.0


def measure_machine(device: torch.device, dtype: torch.dtype, products: str = "") -> Row:
    """Times a square matrix product, and a copy far larger than any cache.

    Args:
        device: The machine.
        dtype: Type of the tensors that kernels receive.
        products: Type in which kernels multiply: one of `TF32`, or the name of a dtype; `dtype` if empty.

    Returns:
        Samples in milliseconds; FLOPs of one product, and bytes that one copy reads and writes.
    """
    name = str(dtype).removeprefix("torch.")
    products = products or name
    side = _SIDE[device.type]
    generator = torch.Generator(device).manual_seed(0)
    operand = torch.float32 if products in TF32 else dtype
    left, right = (torch.randn(side, side, generator=generator, device=device).to(operand) for _ in range(2))
    with _tf32_allowed(products in TF32):
        gemm_ms = measure_calls(lambda: left @ right, device, _PEAK_REPEATS).samples_ms
    # Random bytes; no device can exploit that they repeat after 16 MiB.
    drawn = torch.randint(-128, 128, (_DRAWN_BYTES,), dtype=torch.int8, generator=generator, device=device)
    source = drawn.repeat(_COPIED_BYTES[device.type] // _DRAWN_BYTES)
    target = torch.empty_like(source)
    copy_ms = measure_calls(lambda: target.copy_(source), device, _PEAK_REPEATS).samples_ms
    return {
        "gemm_samples_ms": gemm_ms,
        "gemm_flops": 2 * side**3 / (3 if products == "tf32x3" else 1),
        "copy_samples_ms": copy_ms,
        "copy_bytes": 2 * source.numel(),
        "dtype": name,
        "products": products,
    }


def machine_metrics(row: Row) -> list[Metric]:
    """The machine's peaks: FLOP/s of the product and bytes per second of the copy.

    Each is the fastest sample, because other programs can only slow the machine; it has no standard error. The
    coordinate `dtype` is the type of the product.
    """
    gemm = [1e3 * row["gemm_flops"] / ms for ms in row["gemm_samples_ms"]]
    copy = [1e3 * row["copy_bytes"] / ms for ms in row["copy_samples_ms"]]
    at = {"dtype": row.get("products", row["dtype"])}
    return [
        Metric("machine_gemm_flops_per_s", max(gemm), "flop/s", None, None, len(gemm), at, samples=tuple(gemm)),
        Metric("machine_copy_bytes_per_s", max(copy), "bytes/s", None, None, len(copy), at, samples=tuple(copy)),
    ]


def measure_pace(device: torch.device) -> dict[str, list[float]]:
    """Milliseconds of each kind of fixed work, 7 samples of each, all in float32.

    `compute` is a product of two 512 x 512 matrices, which stay in the cache. `calls` is 100 exponentials of 65,536
    numbers, which mostly start and wait for threads. `memory` is the exponential of 8 million numbers in newly
    allocated memory, as activations are.
    """
    one = torch.ones(_SIZE, _SIZE, device=device)
    small = torch.ones(_SMALL, device=device)
    works: dict[str, Callable[[], object]] = {
        "compute": lambda: one @ one,
        "calls": lambda: [small.exp() for _ in range(_CALLS)],
        "memory": lambda: torch.zeros(_NUMBERS, device=device).exp_(),
    }
    stopwatch, repeats = Stopwatch(device, _MAX_CALL_S), range(_PACE_WARMUP + _PACE_REPEATS)
    return {name: [stopwatch.time(work).ms for _ in repeats][_PACE_WARMUP:] for name, work in works.items()}


def pace_metric(work: str, samples_ms: list[float]) -> Metric:
    """The median time of one kind of work; the metric has no better direction."""
    return median_metric(f"{PACE}_ms", samples_ms, "ms", None, {"work": work})


@contextmanager
def _tf32_allowed(allowed: bool) -> Iterator[None]:
    """Lets torch multiply float32 matrices in TF32 within the block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if allowed else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)

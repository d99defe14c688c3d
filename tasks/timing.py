"""Timing of calls: synchronise, warm up, repeat, and keep every sample."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_STABLE_WITHIN = 0.1
_MOST_REPEATS = 20


@dataclass(frozen=True)
class Repeats:
    """How often a call is repeated.

    Attributes:
        count: Timed calls, at least.
        min_time_ms: Time over which calls are repeated at least, but no more than 20 times `count`.
        warmup: Calls before timing, at most; fewer when two in a row agree within 10 %.
        max_call_s: Longest that one call may take.
    """

    count: int
    min_time_ms: float
    warmup: int
    max_call_s: float


def time_calls(call: Callable[[], object], device: torch.device, repeats: Repeats) -> list[float]:
    """Milliseconds of each repeated call, after warming up.

    Raises:
        TimeoutError: A call took longer than `max_call_s`.
    """
    previous_ms = 0.0
    for _ in range(repeats.warmup):
        current_ms = time_ms(call, device, repeats.max_call_s)
        if abs(current_ms - previous_ms) <= _STABLE_WITHIN * previous_ms:
            break
        previous_ms = current_ms
    samples_ms: list[float] = []
    while len(samples_ms) < repeats.count or (
        sum(samples_ms) < repeats.min_time_ms and len(samples_ms) < _MOST_REPEATS * repeats.count
    ):
        samples_ms.append(time_ms(call, device, repeats.max_call_s))
    return samples_ms


def time_ms(call: Callable[[], object], device: torch.device, max_call_s: float) -> float:
    """Milliseconds of one call, the device synchronised before and after it.

    Raises:
        TimeoutError: It took longer than `max_call_s`.
    """
    import torch

    synchronize: Callable[[], object] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronize()
    start_ns = time.perf_counter_ns()
    call()
    synchronize()
    elapsed_ms = (time.perf_counter_ns() - start_ns) / 1e6
    if elapsed_ms > 1e3 * max_call_s:
        raise TimeoutError(f"one call took {elapsed_ms / 1e3:.1f} s, more than max_call_s={max_call_s:g}")
    return elapsed_ms


def log_log_slope(lengths: Sequence[float], times: Sequence[float]) -> tuple[float, float]:
    """Slope of log time against log length by least squares, and its standard error; needs three points."""
    import numpy as np

    x, y = np.log(lengths), np.log(times)
    x, y = x - x.mean(), y - y.mean()
    slope = (x * y).sum() / (x * x).sum()
    residual = y - slope * x
    return float(slope), math.sqrt((residual * residual).sum() / (len(x) - 2) / (x * x).sum())

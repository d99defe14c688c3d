"""Timing of calls: warm up until times settle, repeat, keep every sample, and record which clock was used.

On CUDA a call is timed between two events of its stream, on the CPU by the host's clock. The L2 cache is flushed before
each call of a kernel, as the other layers of a model would do. The flush is still running when the host starts the
call, so the device's time does not include the start. A kernel call that takes the host at least 80 % of the device's
time to start is replayed from a CUDA graph.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ..heavy import torch
from .cuda_graphs import capture_stream, try_graph
from .telemetry import UNWATCHED, Telemetry

Clock: TypeAlias = Literal["host", "events", "graph"]

_STABLE_WITHIN = 0.1
_MOST_REPEATS = 20
_FEWEST_SAMPLES = 3
_LAUNCHES_DOMINATE = 0.8
_L2_BYTES = 256 * 2**20
"""More than twice the L2 cache of any device so far (H200: 50 MB; B200: 126 MB), in bytes."""


@dataclass(frozen=True)
class Repeats:
    """How often a call is repeated.

    Attributes:
        count: Fewest timed calls.
        min_time_ms: Least total time of the timed calls, up to 20 times `count` calls.
        warmup: Most calls before timing; fewer if two in a row agree within 10 %. 0 for no warm-up.
        max_call_s: Longest time of one call.
        max_time_ms: Total time after which no call is added once there are three, even if `count` is not reached.
        min_warmup_ms: Least time of the warm-up by the host's clock, which may take more than `warmup` calls: two short
            calls may agree before the clocks of an idle device have risen.
    """

    count: int
    min_time_ms: float
    warmup: int
    max_call_s: float
    max_time_ms: float = math.inf
    min_warmup_ms: float = 100.0

    def is_enough(self, samples_ms: Sequence[float]) -> bool:
        """Whether these samples suffice."""
        taken, spent_ms = len(samples_ms), sum(samples_ms)
        if taken >= _FEWEST_SAMPLES and spent_ms >= self.max_time_ms:
            return True
        is_short = spent_ms < self.min_time_ms and taken < _MOST_REPEATS * self.count
        return taken >= self.count and not is_short


@dataclass(frozen=True)
class Timing:
    """Times of a repeated call.

    Attributes:
        samples_ms: Milliseconds of each timed call, in order.
        clock: `host`, `events` of a CUDA stream, or `graph` for events around a replayed graph.
        is_stable: Whether the last two warm-up calls agreed within 10 %; false without warm-up calls.
        warmup_calls: Number of warm-up calls.
        no_graph: Why a wanted graph could not be captured; empty otherwise.
    """

    samples_ms: list[float]
    clock: Clock
    is_stable: bool
    warmup_calls: int
    no_graph: str = ""

    @property
    def notes(self) -> list[str]:
        """Notes on an unusual clock; empty for the device's usual one."""
        return clock_notes(self.clock, self.no_graph)


def clock_notes(clock: Clock, no_graph: str) -> list[str]:
    """Notes on an unusual clock; empty for the device's usual one."""
    if clock == "graph":
        return ["timed by replaying a CUDA graph, as starting the call takes the host most of the time that it runs"]
    if no_graph:
        return [f"timed between events, including the start of the call, which could not be captured: {no_graph}"]
    return []


@dataclass(frozen=True)
class Sample:
    """Milliseconds of one timed call, and those that the host took to start it; both are equal on the CPU."""

    ms: float
    host_ms: float

    @property
    def is_mostly_starting(self) -> bool:
        """Whether starting the call takes the host at least 80 % of the time that the device runs it."""
        return self.host_ms >= _LAUNCHES_DOMINATE * self.ms


@dataclass(frozen=True)
class Stopwatch:
    """Times single calls: between two events on CUDA, by the host's clock on the CPU.

    Attributes:
        device: Where calls run.
        max_call_s: Longest time of a call.
        flush: Started before each call, outside its time and without waiting for it; None for nothing. Without a flush
            the device is idle when a call starts, so the call's time includes its start.
        watch: Reads the device's state while it runs the call.
    """

    device: torch.device
    max_call_s: float
    flush: Callable[[], object] | None = None
    watch: Telemetry = UNWATCHED

    def time(self, call: Callable[[], object]) -> Sample:
        """Times one call.

        Raises:
            TimeoutError: It took longer than `max_call_s`.
        """
        sample = self._on_cuda(call) if self.device.type == "cuda" else _on_host(call)
        if sample.ms > 1e3 * self.max_call_s:
            raise TimeoutError(f"one call took {sample.ms / 1e3:.1f} s, more than max_call_s={self.max_call_s:g}")
        return sample

    def _on_cuda(self, call: Callable[[], object]) -> Sample:
        event: Any = torch.cuda.Event
        start, stop = event(enable_timing=True), event(enable_timing=True)
        torch.cuda.synchronize(self.device)
        if self.flush is not None:
            self.flush()
        start.record()
        host_ms = _on_host(call).ms
        stop.record()
        self.watch.look()
        stop.synchronize()
        return Sample(float(start.elapsed_time(stop)), host_ms)


def first_call_s(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of the first call, which compiles, tunes and allocates; it has no time limit."""
    _synchronize(device)
    start = time.perf_counter()
    call()
    _synchronize(device)
    return time.perf_counter() - start


def measure_calls(
    call: Callable[[], object],
    device: torch.device,
    repeats: Repeats,
    *,
    kernel: bool = False,
    watch: Telemetry = UNWATCHED,
) -> Timing:
    """Warms up and times a call whose first call was already made (`first_call_s`).

    Args:
        call: What is timed.
        device: Where it runs.
        repeats: How often.
        kernel: On CUDA, flush the L2 cache before each call, run on the stream that graphs are captured on, and replay
            a graph if starting dominates. For a backward pass alone, the forward pass must have run in
            `cuda_graphs.capture_stream`.
        watch: Its window spans the timed calls only.

    Raises:
        TimeoutError: A call took longer than `max_call_s`.
    """
    kernel = kernel and device.type == "cuda"
    with capture_stream(device) if kernel else nullcontext():
        stopwatch = Stopwatch(device, repeats.max_call_s, l2_flush(device) if kernel else None, watch)
        warmup_calls, is_stable = _warm_up(stopwatch, call, repeats)
        wants_graph = kernel and stopwatch.time(call).is_mostly_starting
        replay, no_graph = try_graph(call, device) if wants_graph else (None, "")
        samples_ms = repeated_ms(stopwatch, replay or call, repeats)
    return Timing(samples_ms, clock_of(device, is_replayed=replay is not None), is_stable, warmup_calls, no_graph)


def clock_of(device: torch.device, *, is_replayed: bool) -> Clock:
    """The clock that times a call or the replay of its graph."""
    if is_replayed:
        return "graph"
    return "events" if device.type == "cuda" else "host"


def repeated_ms(stopwatch: Stopwatch, call: Callable[[], object], repeats: Repeats) -> list[float]:
    """Milliseconds of a warm call, repeated until the samples suffice, in one window of the stopwatch's watch.

    Raises:
        TimeoutError: A call took longer than `max_call_s`.
    """
    samples_ms: list[float] = []
    with stopwatch.watch.window():
        while not repeats.is_enough(samples_ms):
            samples_ms.append(stopwatch.time(call).ms)
    return samples_ms


def l2_flush(device: torch.device) -> Callable[[], object]:
    """A call that starts overwriting more memory than the L2 cache of a CUDA device holds."""
    return torch.empty(_L2_BYTES, dtype=torch.int8, device=device).zero_


def _warm_up(stopwatch: Stopwatch, call: Callable[[], object], repeats: Repeats) -> tuple[int, bool]:
    """Warms a call up.

    Returns:
        The number of calls, and whether the last two agreed.
    """
    start_s = time.perf_counter()
    calls, previous_ms, is_stable = 0, 0.0, False
    while repeats.warmup:
        current_ms = stopwatch.time(call).ms
        calls += 1
        is_stable = abs(current_ms - previous_ms) <= _STABLE_WITHIN * previous_ms
        previous_ms = current_ms
        is_long = 1e3 * (time.perf_counter() - start_s) >= repeats.min_warmup_ms
        if is_long and (is_stable or calls >= repeats.warmup):
            break
    return calls, is_stable


def _on_host(call: Callable[[], object]) -> Sample:
    start_ns = time.perf_counter_ns()
    call()
    ms = (time.perf_counter_ns() - start_ns) / 1e6
    return Sample(ms, ms)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

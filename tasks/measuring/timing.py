"""Timing of calls: warm up until times settle, repeat, keep every sample, and say which clock was used.

On CUDA a call is timed between two events of its stream, on the CPU by the host's clock. Kernels are timed with the L2
cache flushed before each call, as a model finds it. The flush is still running when the call is started, so that the
time that starting takes is not in the device's. Where starting takes the host as long as running takes the device, the
call is replayed from a CUDA graph.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from .cuda_graphs import capture_stream, try_graph
from .telemetry import UNWATCHED, Telemetry

if TYPE_CHECKING:
    import torch

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
        count: Timed calls, at least.
        min_time_ms: Time over which calls are repeated at least, but no more than 20 times `count`.
        warmup: Calls before timing, at most; fewer when two in a row agree within 10 %. 0 for no warming up at all.
        max_call_s: Longest that one call may take.
        max_time_ms: Time after which no call is added once there are three; fewer than `count` will then do.
        min_warmup_ms: Time by the host's clock over which calls warm up at least, and then more than `warmup` of them:
            clocks of an idle device take longer to rise than two short calls to agree.
    """

    count: int
    min_time_ms: float
    warmup: int
    max_call_s: float
    max_time_ms: float = math.inf
    min_warmup_ms: float = 100.0

    def is_enough(self, samples_ms: Sequence[float]) -> bool:
        """Whether so many samples will do."""
        taken, spent_ms = len(samples_ms), sum(samples_ms)
        if taken >= _FEWEST_SAMPLES and spent_ms >= self.max_time_ms:
            return True
        is_short = spent_ms < self.min_time_ms and taken < _MOST_REPEATS * self.count
        return taken >= self.count and not is_short


@dataclass(frozen=True)
class Timing:
    """What timing a call gave.

    Attributes:
        samples_ms: Milliseconds of each timed call, in order.
        clock: `host`, `events` of a CUDA stream, or `graph` for events around a replayed graph.
        no_graph: Why there is no graph where one was wanted; empty where there is one, or none was wanted.
        is_stable: Whether the last two warm-up calls agreed within 10 %; without warm-up calls it is not known, and
            false.
        warmup_calls: Calls that warmed up.
    """

    samples_ms: list[float]
    clock: Clock
    is_stable: bool
    warmup_calls: int
    no_graph: str = ""

    @property
    def notes(self) -> list[str]:
        """What a reader has to know of the clock, in words; nothing of a clock that is the usual one."""
        return clock_notes(self.clock, self.no_graph)


def clock_notes(clock: Clock, no_graph: str) -> list[str]:
    """The notes of a clock, and of why there is no graph."""
    if clock == "graph":
        return ["timed by replaying a CUDA graph, as starting the call takes the host most of the time that it runs"]
    if no_graph:
        return [f"timed between events, with what starting the call takes, as it could not be captured: {no_graph}"]
    return []


@dataclass(frozen=True)
class Sample:
    """One timed call: milliseconds that it took, and those that the host took to start it; equal on the CPU."""

    ms: float
    host_ms: float

    @property
    def is_mostly_starting(self) -> bool:
        """Whether starting the call takes the host most of the time that it takes the device to run it."""
        return self.host_ms >= _LAUNCHES_DOMINATE * self.ms


@dataclass(frozen=True)
class Stopwatch:
    """Times one call after another: between two events on CUDA, by the host's clock on the CPU.

    Attributes:
        device: Where calls run.
        max_call_s: Longest that a call may take.
        flush: What is started before each call, outside its time, and not waited for; None for nothing. Without it the
            device is idle when a call is started, and the time that starting takes is in the call's.
        watch: Looks at the device while it runs what the call started.
    """

    device: torch.device
    max_call_s: float
    flush: Callable[[], object] | None = None
    watch: Telemetry = UNWATCHED

    def time(self, call: Callable[[], object]) -> Sample:
        """Makes a call.

        Raises:
            TimeoutError: It took longer than `max_call_s`.
        """
        sample = self._on_cuda(call) if self.device.type == "cuda" else _on_host(call)
        if sample.ms > 1e3 * self.max_call_s:
            raise TimeoutError(f"one call took {sample.ms / 1e3:.1f} s, more than max_call_s={self.max_call_s:g}")
        return sample

    def _on_cuda(self, call: Callable[[], object]) -> Sample:
        import torch

        torch.cuda.synchronize(self.device)
        start, stop = _event(), _event()
        if self.flush is not None:
            self.flush()
        start.record()
        host_ms = _on_host(call).ms
        stop.record()
        self.watch.look()
        stop.synchronize()
        return Sample(float(start.elapsed_time(stop)), host_ms)


def first_call_s(call: Callable[[], object], device: torch.device) -> float:
    """Makes the first call of something, which compiles, tunes and allocates; gives its seconds until it is done.

    However long it takes, it is no timeout: what it does is done once.
    """
    _synchronize(device)
    start = time.perf_counter()
    call()
    _synchronize(device)
    return time.perf_counter() - start


def time_calls(call: Callable[[], object], device: torch.device, repeats: Repeats) -> list[float]:
    """Milliseconds of each repeated call, after warming up.

    Raises:
        TimeoutError: A call took longer than `max_call_s`.
    """
    return measure_calls(call, device, repeats).samples_ms


def measure_calls(
    call: Callable[[], object],
    device: torch.device,
    repeats: Repeats,
    *,
    kernel: bool = False,
    watch: Telemetry = UNWATCHED,
) -> Timing:
    """Times a call, one that was made before (`first_call_s`), after warming it up.

    Args:
        call: What is timed.
        device: Where it runs.
        repeats: How often.
        kernel: On CUDA, flush the L2 cache before each call, run on the stream that graphs are captured on, and replay
            a graph where starting dominates. A backward pass without its forward pass has to have had that in
            `cuda_graphs.capture_stream`.
        watch: Has its window over the timed calls, and over no other.

    Raises:
        TimeoutError: A call took longer than `max_call_s`.
    """
    kernel = kernel and device.type == "cuda"
    with capture_stream(device) if kernel else nullcontext():
        stopwatch = Stopwatch(device, repeats.max_call_s, l2_flush(device) if kernel else None, watch)
        warmup_calls, is_stable = _warm_up(stopwatch, call, repeats)
        clock: Clock = "events" if device.type == "cuda" else "host"
        no_graph = ""
        if kernel and stopwatch.time(call).is_mostly_starting:
            replay, no_graph = try_graph(call, device)
            if replay is not None:
                call, clock = replay, "graph"
        samples_ms = repeated_ms(stopwatch, call, repeats)
    return Timing(samples_ms, clock, is_stable, warmup_calls, no_graph)


def repeated_ms(stopwatch: Stopwatch, call: Callable[[], object], repeats: Repeats) -> list[float]:
    """Milliseconds of a warm call, repeated until that will do, in one window of the stopwatch's watch.

    Raises:
        TimeoutError: A call took longer than `max_call_s`.
    """
    samples_ms: list[float] = []
    with stopwatch.watch.window():
        while not repeats.is_enough(samples_ms):
            samples_ms.append(stopwatch.time(call).ms)
    return samples_ms


def time_ms(call: Callable[[], object], device: torch.device, max_call_s: float) -> float:
    """Milliseconds of one call: between two events on CUDA, by the host's clock on the CPU.

    Raises:
        TimeoutError: It took longer than `max_call_s`.
    """
    return Stopwatch(device, max_call_s).time(call).ms


def l2_flush(device: torch.device) -> Callable[[], object]:
    """Starts overwriting more memory than the L2 cache of a CUDA device holds."""
    import torch

    buffer = torch.empty(_L2_BYTES, dtype=torch.int8, device=device)
    return buffer.zero_


def _warm_up(stopwatch: Stopwatch, call: Callable[[], object], repeats: Repeats) -> tuple[int, bool]:
    """How many calls it took to warm up, and whether the last two agreed."""
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


def _event() -> Any:
    """An event that tells time; torch gives its constructor no types."""
    import torch

    return getattr(torch.cuda, "Event")(enable_timing=True)  # noqa: B009


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)

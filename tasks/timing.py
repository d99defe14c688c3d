"""Timing of calls: warm up until times settle, repeat, keep every sample, and say which clock was used.

On CUDA a call is timed between two events of its stream, on the CPU by the host's clock. Kernels are timed with the L2
cache flushed before each call, as a model finds it, and replayed from a CUDA graph where starting them takes as long as
they run: what is then left is the device's own time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

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
        warmup: Calls before timing, at most; fewer when two in a row agree within 10 %.
        max_call_s: Longest that one call may take.
        max_time_ms: Time after which no call is added once there are three; fewer than `count` will then do.
    """

    count: int
    min_time_ms: float
    warmup: int
    max_call_s: float
    max_time_ms: float = math.inf

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
        is_stable: Whether two warm-up calls in a row agreed within 10 %; without warm-up calls it is not known, and
            false.
        calls: Calls in all, those that warmed up included.
    """

    samples_ms: list[float]
    clock: Clock
    is_stable: bool
    calls: int


def time_calls(call: Callable[[], object], device: torch.device, repeats: Repeats) -> list[float]:
    """Milliseconds of each repeated call, after warming up.

    Raises:
        TimeoutError: A call took longer than `max_call_s`.
    """
    return measure_calls(call, device, repeats).samples_ms


def measure_calls(
    call: Callable[[], object], device: torch.device, repeats: Repeats, *, kernel: bool = False
) -> Timing:
    """Times a call after warming it up.

    Args:
        call: What is timed; on CUDA it must not wait for the device where `kernel` is set.
        device: Where it runs.
        repeats: How often.
        kernel: On CUDA, flush the L2 cache before each call, and replay a graph where launches dominate.

    Raises:
        TimeoutError: A call took longer than `max_call_s`.
    """
    warmed, is_stable = _warm_up(call, device, repeats)
    clock: Clock = "events" if device.type == "cuda" else "host"
    if kernel and device.type == "cuda" and _launches_dominate(call):
        call, clock = graph_of(call), "graph"
    prepare = _l2_flush(device) if kernel and device.type == "cuda" else None
    samples_ms: list[float] = []
    while not repeats.is_enough(samples_ms):
        if prepare is not None:
            prepare()
        samples_ms.append(time_ms(call, device, repeats.max_call_s))
    return Timing(samples_ms, clock, is_stable, warmed + len(samples_ms))


def time_ms(call: Callable[[], object], device: torch.device, max_call_s: float) -> float:
    """Milliseconds of one call: between two events on CUDA, by the host's clock on the CPU.

    Raises:
        TimeoutError: It took longer than `max_call_s`.
    """
    elapsed_ms = _event_ms(call) if device.type == "cuda" else _host_ms(call)
    if elapsed_ms > 1e3 * max_call_s:
        raise TimeoutError(f"one call took {elapsed_ms / 1e3:.1f} s, more than max_call_s={max_call_s:g}")
    return elapsed_ms


def graph_of(call: Callable[[], object]) -> Callable[[], object]:
    """A call that replays, as one CUDA graph, all that `call` starts; it has to be warm.

    Raises:
        RuntimeError: The call cannot be captured, as where it waits for the device.
    """
    import torch

    side: Any = _cuda("Stream")
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # capturing wants its workspaces made on a stream that is not the default
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    replay: Callable[[], object] = graph.replay
    return replay


def _warm_up(call: Callable[[], object], device: torch.device, repeats: Repeats) -> tuple[int, bool]:
    """Calls until two in a row agree, or `warmup` times; how many calls that took, and whether they came to agree."""
    previous_ms = 0.0
    for done in range(1, repeats.warmup + 1):
        current_ms = time_ms(call, device, repeats.max_call_s)
        if abs(current_ms - previous_ms) <= _STABLE_WITHIN * previous_ms:
            return done, True
        previous_ms = current_ms
    return repeats.warmup, False


def _host_ms(call: Callable[[], object]) -> float:
    start_ns = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start_ns) / 1e6


def _event_ms(call: Callable[[], object]) -> float:
    return _device_and_host_ms(call)[0]


def _device_and_host_ms(call: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds between two events around a call, and those that the host took to start it."""
    import torch

    torch.cuda.synchronize()
    start, stop = (_cuda("Event", enable_timing=True) for _ in range(2))
    start.record()
    host_ms = _host_ms(call)
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop)), host_ms


def _cuda(kind: str, **options: Any) -> Any:
    """An event or a stream; torch gives their constructors no types."""
    import torch

    return getattr(torch.cuda, kind)(**options)


def _launches_dominate(call: Callable[[], object]) -> bool:
    """Whether starting a call takes the host most of the time that it takes the device to run it."""
    device_ms, host_ms = _device_and_host_ms(call)
    return host_ms >= _LAUNCHES_DOMINATE * device_ms


def _l2_flush(device: torch.device) -> Callable[[], object]:
    import torch

    buffer = torch.empty(_L2_BYTES, dtype=torch.int8, device=device)
    return buffer.zero_

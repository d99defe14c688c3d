"""Timing of decoding: token by token as a program starts them, and replayed from a CUDA graph where starting dominates.

Tokens follow one another on a context that ends at the point's length. A graph holds one of them, the last: its replays
are the same token again after the same context.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..base import Row
from ..measuring.cuda_graphs import try_graph
from ..measuring.timing import Clock, Repeats, Sample, Stopwatch, clock_notes, first_call_s, repeated_ms
from .measured_calls import Calls
from .sweep_points import Point

_FIRST = 1
_CAPTURED = 2
"""Tokens that a graph takes: one is decoded before, the other is captured."""


@dataclass
class _Tokens:
    """Decodes one token after the other; `state` is that before the token at `position`."""

    calls: Calls
    inputs: Any
    position: int
    state: Any

    def step(self) -> None:
        self.state = self.calls.decode(self.inputs, self.position, self.state)
        self.position += 1


def tokens_decoded(warmup: int, repeats: int, *, graph: bool) -> int:
    """Tokens that decoding takes at each point: the first, those that warm up, those that are timed, and a graph's."""
    return _FIRST + warmup + repeats + (_CAPTURED if graph else 0)


def time_decoding(calls: Calls, point: Point, repeats: Repeats, stopwatch: Stopwatch) -> Row:
    """Times of `repeats.count` tokens, after one apart and `repeats.warmup` that warm up.

    Where starting the tokens takes the host most of the time that the device runs, and a graph can be captured, times
    are those of its replays; `started_samples_ms` then holds the tokens' as they were started one by one.

    Raises:
        TimeoutError: A token took longer than `max_call_s`.
    """
    device = calls.device
    inputs = calls.inputs(point.batch_size, point.seq_len)
    decoded = tokens_decoded(repeats.warmup, repeats.count, graph=device.type == "cuda")
    context_len = point.seq_len - decoded
    tokens = _Tokens(calls, inputs, context_len, calls.prefill(inputs, context_len))
    first_s = first_call_s(tokens.step, device)
    samples = time_steps(tokens.step, repeats, stopwatch)
    found: Row = {"first_call_s": first_s, "samples_ms": [sample.ms for sample in samples]}
    clock: Clock = "events" if device.type == "cuda" else "host"
    no_graph = ""
    if device.type == "cuda" and point.role != "probe" and _are_mostly_starting(samples):
        replay, no_graph = try_graph(tokens.step, device)
        if replay is not None:
            clock, found["started_samples_ms"] = "graph", found["samples_ms"]
            found["samples_ms"] = repeated_ms(stopwatch, replay, repeats)
    return {**found, "clock": clock, "no_graph": no_graph, "notes": clock_notes(clock, no_graph)}


def time_steps(step: Callable[[], object], repeats: Repeats, stopwatch: Stopwatch) -> list[Sample]:
    """Times of a call that does something else each time: `repeats.count` of them, after `repeats.warmup` others.

    Raises:
        TimeoutError: A call took longer than `max_call_s`.
    """
    for _ in range(repeats.warmup):
        stopwatch.time(step)
    with stopwatch.watch.window():
        return [stopwatch.time(step) for _ in range(repeats.count)]


def _are_mostly_starting(samples: list[Sample]) -> bool:
    return 2 * sum(sample.is_mostly_starting for sample in samples) > len(samples)

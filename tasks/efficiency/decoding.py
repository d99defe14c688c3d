"""Times decoding: tokens that the host starts one by one, or a token replayed from a CUDA graph if starting dominates.

Decoded tokens follow one another on a context that ends at the point's length. A graph holds the last of these tokens:
its replays decode the same token again after the same context.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..base import Row
from ..measuring.cuda_graphs import try_graph
from ..measuring.timing import Repeats, Sample, Stopwatch, clock_notes, clock_of, first_call_s, repeated_ms
from .points import Point
from .subjects import Calls

_FIRST = 1
_CAPTURED = 2
"""Tokens that a graph takes: one is decoded before the capture, the other is captured."""


@dataclass
class _Tokens:
    """Decodes one token after the other; `state` is the state before the token at `position`."""

    calls: Calls
    inputs: Any
    position: int
    state: Any

    def step(self) -> None:
        self.state = self.calls.decode(self.inputs, self.position, self.state)
        self.position += 1


def tokens_decoded(warmup: int, repeats: int, *, graph: bool) -> int:
    """Tokens that are decoded at each point: the first, the warm-up, the timed tokens, and those of a graph."""
    return _FIRST + warmup + repeats + (_CAPTURED if graph else 0)


def time_decoding(calls: Calls, point: Point, repeats: Repeats, stopwatch: Stopwatch) -> Row:
    """Times `repeats.count` tokens, after a first token timed apart and `repeats.warmup` tokens of warm-up.

    If starting most of the tokens takes the host most of the time that the device runs them, and a graph can be
    captured, the samples are times of its replays; `started_samples_ms` then holds the times of tokens started one by
    one.

    Raises:
        TimeoutError: A token took longer than `max_call_s`.
    """
    device = calls.device
    on_cuda = device.type == "cuda"
    inputs = calls.inputs(point.batch_size, point.seq_len)
    context_len = point.seq_len - tokens_decoded(repeats.warmup, repeats.count, graph=on_cuda)
    tokens = _Tokens(calls, inputs, context_len, calls.prefill(inputs, context_len))
    first_s = first_call_s(tokens.step, device)
    samples = time_steps(tokens.step, repeats, stopwatch)
    found: Row = {"first_call_s": first_s, "samples_ms": [sample.ms for sample in samples]}
    starting = sum(sample.is_mostly_starting for sample in samples)
    wants_graph = on_cuda and point.role != "probe" and 2 * starting > len(samples)
    replay, no_graph = try_graph(tokens.step, device) if wants_graph else (None, "")
    if replay is not None:
        found["started_samples_ms"] = found["samples_ms"]
        found["samples_ms"] = repeated_ms(stopwatch, replay, repeats)
    clock = clock_of(device, is_replayed=replay is not None)
    return {**found, "clock": clock, "no_graph": no_graph, "notes": clock_notes(clock, no_graph)}


def time_steps(step: Callable[[], object], repeats: Repeats, stopwatch: Stopwatch) -> list[Sample]:
    """Times `repeats.count` calls of a step whose calls differ from one another, after `repeats.warmup` others.

    Raises:
        TimeoutError: A call took longer than `max_call_s`.
    """
    for _ in range(repeats.warmup):
        stopwatch.time(step)
    with stopwatch.watch.window():
        return [stopwatch.time(step) for _ in range(repeats.count)]

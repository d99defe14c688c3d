"""What throughput times: each mode's calls on a model or its attention layer alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ..adapters.base import Adapter
from .allocation import memory_limit
from .base import Row
from .calls import COMPILED, Calls, calls_for, check_compiled
from .points import LAYER, Point
from .sweep import random_tokens
from .telemetry import telemetry
from .timing import Repeats, Timing, measure_calls, time_ms

_WORK = ("prefill", "train", "decode", "generate")
_COMPILED_WORK = ("prefill", "train")
MODES = (
    *_WORK,
    *(f"{LAYER}{work}" for work in _WORK if work != "generate"),
    *(f"{COMPILED}{work}" for work in _COMPILED_WORK),
    *(f"{LAYER}{COMPILED}{work}" for work in _COMPILED_WORK),
)
"""Every mode; state that grows gives torch.compile new shapes at each token, so decoding is not compiled."""


@dataclass(frozen=True)
class TimedModes:
    """How calls are repeated, as in `ThroughputSettings`."""

    repeats: int
    min_time_ms: float
    warmup: int
    max_call_s: float
    max_time_s: float

    def of_calls(self) -> Repeats:
        """How often a whole call is repeated."""
        return Repeats(self.repeats, self.min_time_ms, self.warmup, self.max_call_s, 1e3 * self.max_time_s)

    def once(self) -> Repeats:
        """A call to see whether it fits, without warming up."""
        return Repeats(1, 0.0, 0, self.max_call_s)


def measure_mode(subject: Any, point: Point, times: TimedModes, limit_bytes: int) -> Row:
    """Times of one point, and what the device did meanwhile.

    Raises:
        UnsupportedError: The subject cannot do it, or torch.compile compiled nothing.
        TimeoutError: A call took longer than `max_call_s`.
    """
    with memory_limit(limit_bytes, subject.device):
        calls, work = calls_for(point.mode, subject)
        with telemetry(subject.device) as did:
            start = time.perf_counter()
            if work == "generate":
                found = _time_generation(subject, point, times)
            elif work == "decode":
                found = _time_decoding(calls, point, times)
            else:
                found = _time_whole_calls(calls, work, point, times)
            window_s = time.perf_counter() - start
        check_compiled(point.mode)
    if did:
        found["telemetry"] = {**did, "window_s": window_s}
    return {**found, **_counted(subject, point, work)}


def _time_whole_calls(calls: Calls, work: str, point: Point, times: TimedModes) -> Row:
    inputs = calls.inputs(point.batch_size, point.seq_len)
    call: Callable[[], object] = (
        (lambda: calls.prefill(inputs, point.seq_len)) if work == "prefill" else (lambda: calls.train(inputs))
    )
    repeats = times.once() if point.role == "probe" else times.of_calls()
    timing = measure_calls(call, calls.device, repeats, kernel=point.subject == "layer")
    return _row_of(timing)


def _row_of(timing: Timing) -> Row:
    return asdict(timing)


def _time_decoding(calls: Calls, point: Point, times: TimedModes) -> Row:
    inputs = calls.inputs(point.batch_size, point.seq_len)
    warmup, repeats = (0, 1) if point.role == "probe" else (times.warmup, times.repeats)
    context_len = point.seq_len - warmup - repeats
    state = calls.prefill(inputs, context_len)
    samples_ms = []
    for position in range(context_len, point.seq_len):

        def step(position: int = position) -> None:
            nonlocal state
            state = calls.decode(inputs, position, state)

        samples_ms.append(time_ms(step, calls.device, times.max_call_s))
    return {"samples_ms": samples_ms[warmup:], "calls": len(samples_ms)}


def _time_generation(adapter: Adapter, point: Point, times: TimedModes) -> Row:
    """Time to the first token after a prompt, and of each further one, which is what the model chose before."""
    prompt = random_tokens(adapter, point.batch_size, point.seq_len)
    warmup, repeats = (0, 1) if point.role == "probe" else (times.warmup, times.repeats)
    token: Any = None
    state: Any = None

    def first() -> None:
        nonlocal token, state
        logits, state = adapter.prefill(prompt)
        token = logits.argmax(-1)

    def following() -> None:
        nonlocal token, state
        logits, state = adapter.decode(token, state)
        token = logits.argmax(-1)

    firsts = measure_calls(first, adapter.device, times.once() if point.role == "probe" else times.of_calls())
    samples_ms = [time_ms(following, adapter.device, times.max_call_s) for _ in range(warmup + repeats)]
    return {"first_token_samples_ms": firsts.samples_ms, "samples_ms": samples_ms[warmup:]}


def _counted(subject: Any, point: Point, work: str) -> Row:
    """FLOPs and bytes of a layer's forward pass by counting, where they are known."""
    if point.subject != "layer" or work not in ("prefill", "decode") or COMPILED in point.mode:
        return {}
    cost = subject.cost(work, point.batch_size, point.seq_len)
    return {} if cost is None else {"flops": cost.flops, "bytes": cost.bytes}

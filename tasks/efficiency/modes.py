"""The modes of throughput: the calls of each on a model or its attention layer alone, and how they are timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ...adapters.base import Adapter
from ..base import Row
from ..heavy import torch
from ..measuring.allocation import memory_limit
from ..measuring.telemetry import telemetry
from ..measuring.timing import Repeats, Stopwatch, first_call_s, l2_flush, measure_calls
from .decoding import time_decoding, time_steps
from .points import LAYER, Point
from .subjects import COMPILED, calls_for, check_compiled, compilations, random_tokens, whole_call

_WORK = ("prefill", "train", "decode", "generate")
_COMPILED_WORK = ("prefill", "train")
MODES = (
    *_WORK,
    *(f"{LAYER}{work}" for work in _WORK if work != "generate"),
    *(f"{COMPILED}{work}" for work in _COMPILED_WORK),
    *(f"{LAYER}{COMPILED}{work}" for work in _COMPILED_WORK),
)
"""Every mode. Decoding is not compiled: a state that grows would give torch.compile new shapes at each token."""

_MOST_COMPILING_CALLS = 8
"""How often torch.compile compiles one function at most, by its own limit."""


def measure_mode(subject: Any, point: Point, repeats: Repeats, limit_bytes: int) -> Row:
    """Times of one point, and the device's state meanwhile.

    The first call compiles, tunes and allocates; it is timed apart and has no time limit.

    Raises:
        UnsupportedError: The subject lacks this mode, or torch.compile compiled nothing.
        TimeoutError: A later call took longer than `max_call_s`.
    """
    with memory_limit(limit_bytes, subject.device), telemetry(subject.device) as watch:
        calls, work = calls_for(point.mode, subject)
        is_cold = work == "decode" and point.subject == "layer" and calls.device.type == "cuda"
        flush = l2_flush(calls.device) if is_cold else None
        stopwatch = Stopwatch(calls.device, repeats.max_call_s, flush, watch)
        if work == "generate":
            found = _time_generation(subject, point, repeats, stopwatch)
        elif work == "decode":
            found = time_decoding(calls, point, repeats, stopwatch)
        else:
            call = whole_call(calls, work, point)
            first_s = _first_calls_s(call, calls.device, point.mode)
            timing = measure_calls(call, calls.device, repeats, kernel=point.subject == "layer", watch=watch)
            found = {"first_call_s": first_s, **asdict(timing), "notes": timing.notes}
    compiled = check_compiled(point.mode)
    notes = [*found.pop("notes", ()), *watch.notes, *(compiled.notes if compiled else ())]
    if watch.found:
        found["telemetry"] = watch.found
    if compiled:
        found["compiled"] = asdict(compiled)
    return {**found, **({"notes": notes} if notes else {}), **_counted(subject, point, work)}


def _first_calls_s(call: Callable[[], object], device: torch.device, mode: str) -> float:
    """Seconds of the first call, and of the calls after it for which torch.compile compiles again.

    The second call compiles if a guard depends on what the first one changed.
    """
    seconds = 0.0
    for _ in range(_MOST_COMPILING_CALLS):
        before = compilations(mode)
        seconds += first_call_s(call, device)
        if compilations(mode) == before:
            break
    return seconds


def _time_generation(adapter: Adapter, point: Point, repeats: Repeats, stopwatch: Stopwatch) -> Row:
    """Times the first token after a prompt of the point's length, and the tokens that the model chooses after it."""
    prompt = random_tokens(adapter, point.batch_size, point.seq_len)
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

    first_s = first_call_s(first, adapter.device)
    firsts = measure_calls(first, adapter.device, repeats)
    first_s += first_call_s(following, adapter.device)
    return {
        "first_call_s": first_s,
        "first_token_samples_ms": firsts.samples_ms,
        "samples_ms": [sample.ms for sample in time_steps(following, repeats, stopwatch)],
        "clock": firsts.clock,
    }


def _counted(subject: Any, point: Point, work: str) -> Row:
    """Counted FLOPs and bytes of a layer's forward pass, if they are known."""
    if point.subject != "layer" or work not in ("prefill", "decode") or COMPILED in point.mode:
        return {}
    cost = subject.cost(work, point.batch_size, point.seq_len)
    return {} if cost is None else {"flops": cost.flops, "bytes": cost.bytes}

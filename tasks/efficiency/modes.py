"""What throughput times: each mode's calls on a model or its attention layer alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ...adapters.base import Adapter
from ..base import Row
from ..measuring.allocation import memory_limit
from ..measuring.telemetry import Telemetry, telemetry
from ..measuring.timing import Repeats, Stopwatch, first_call_s, l2_flush, measure_calls
from .decoding import time_decoding, time_steps
from .measured_calls import COMPILED, Calls, calls_for, check_compiled, compilations
from .sweep_points import LAYER, Point
from .sweep_settings import random_tokens

if TYPE_CHECKING:
    import torch

_WORK = ("prefill", "train", "decode", "generate")
_COMPILED_WORK = ("prefill", "train")
MODES = (
    *_WORK,
    *(f"{LAYER}{work}" for work in _WORK if work != "generate"),
    *(f"{COMPILED}{work}" for work in _COMPILED_WORK),
    *(f"{LAYER}{COMPILED}{work}" for work in _COMPILED_WORK),
)
"""Every mode; state that grows gives torch.compile new shapes at each token, so decoding is not compiled."""

_MOST_COMPILING_CALLS = 8
"""torch.compile's own limit: it compiles no function more often."""


@dataclass(frozen=True)
class TimedModes:
    """How calls are repeated, as in `ThroughputSettings`."""

    repeats: int
    min_time_ms: float
    warmup: int
    max_call_s: float
    max_time_s: float
    min_warmup_ms: float

    def of(self, point: Point) -> Repeats:
        """How often a point's call is repeated; a probe, which asks whether it fits, is one call without warming up."""
        if point.role == "probe":
            return Repeats(1, 0.0, 0, self.max_call_s)
        return Repeats(
            self.repeats, self.min_time_ms, self.warmup, self.max_call_s, 1e3 * self.max_time_s, self.min_warmup_ms
        )


def measure_mode(subject: Any, point: Point, times: TimedModes, limit_bytes: int) -> Row:
    """Times of one point, and what the device did meanwhile.

    The first call is made apart, however long it takes: it compiles, tunes and allocates.

    Raises:
        UnsupportedError: The subject cannot do it, or torch.compile compiled nothing.
        TimeoutError: A later call took longer than `max_call_s`.
    """
    repeats = times.of(point)
    with memory_limit(limit_bytes, subject.device), telemetry(subject.device) as watch:
        calls, work = calls_for(point.mode, subject)
        if work == "generate":
            found = _time_generation(subject, point, repeats, watch)
        elif work == "decode":
            is_cold = point.subject == "layer" and calls.device.type == "cuda"
            flush = l2_flush(calls.device) if is_cold else None
            found = time_decoding(calls, point, repeats, Stopwatch(calls.device, repeats.max_call_s, flush, watch))
        else:
            found = _time_whole_calls(calls, work, point, repeats, watch)
    compiled = check_compiled(point.mode)
    notes = [*found.pop("notes", ()), *watch.notes, *(compiled.notes if compiled else ())]
    if watch.found:
        found["telemetry"] = watch.found
    if compiled:
        found["compiled"] = asdict(compiled)
    return {**found, **({"notes": notes} if notes else {}), **_counted(subject, point, work)}


def _time_whole_calls(calls: Calls, work: str, point: Point, repeats: Repeats, watch: Telemetry) -> Row:
    inputs = calls.inputs(point.batch_size, point.seq_len)
    call: Callable[[], object] = (
        (lambda: calls.prefill(inputs, point.seq_len)) if work == "prefill" else (lambda: calls.train(inputs))
    )
    first_s = _first_calls_s(call, calls.device, point.mode)
    timing = measure_calls(call, calls.device, repeats, kernel=point.subject == "layer", watch=watch)
    return {"first_call_s": first_s, **asdict(timing), "notes": timing.notes}


def _first_calls_s(call: Callable[[], object], device: torch.device, mode: str) -> float:
    """Seconds of the first call, and of those after it that torch.compile still compiles something for.

    The second is one, where a guard is on what the first changed.
    """
    seconds = 0.0
    for _ in range(_MOST_COMPILING_CALLS):
        before = compilations(mode)
        seconds += first_call_s(call, device)
        if compilations(mode) == before:
            break
    return seconds


def _time_generation(adapter: Adapter, point: Point, repeats: Repeats, watch: Telemetry) -> Row:
    """Time to the first token after a prompt, and of each further one, which is what the model chose before."""
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
    samples = time_steps(following, repeats, Stopwatch(adapter.device, repeats.max_call_s, watch=watch))
    return {
        "first_call_s": first_s,
        "first_token_samples_ms": firsts.samples_ms,
        "samples_ms": [sample.ms for sample in samples],
        "clock": firsts.clock,
    }


def _counted(subject: Any, point: Point, work: str) -> Row:
    """FLOPs and bytes of a layer's forward pass by counting, where they are known."""
    if point.subject != "layer" or work not in ("prefill", "decode") or COMPILED in point.mode:
        return {}
    cost = subject.cost(work, point.batch_size, point.seq_len)
    return {} if cost is None else {"flops": cost.flops, "bytes": cost.bytes}

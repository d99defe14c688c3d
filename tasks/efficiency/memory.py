"""Memory: peak bytes of prefill and of a training step, and bytes of the decode state, against sequence length.

A run measures each point in a fresh process, so that no point sees what another left behind. Which bytes are counted
differs between the CPU and CUDA; see `measuring/allocation.py`. `longest_prefill_peak_bytes` ranks models. It is taken
at the longest length asked for and at no other; `throughput.py` says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...results.record import Metric
from ..base import Row
from ..measuring.allocation import memory_limit, peak_memory, peak_resident_bytes, saved_bytes
from ..measuring.failures import release_memory
from ..measuring.metrics import At
from .metrics import climb_end, growth_metrics, largest_batch_metrics
from .points import LAYER, Point, of_role
from .subjects import calls_for, whole_call
from .sweep import SMOKE_LENGTHS, Sweep, SweepSettings, sweep_info, sweep_scales

_MODES = ("prefill", "train", "state", f"{LAYER}prefill", f"{LAYER}train", f"{LAYER}state")
_BYTES = ("peak_allocated_bytes", "peak_reserved_bytes", "activation_bytes", "peak_resident_bytes", "state_bytes")


@dataclass(frozen=True)
class MemorySettings(SweepSettings):
    """What is measured.

    Attributes:
        modes: Any of `prefill`, `train` and `state` on the whole model, and of `layer_prefill`, `layer_train` and
            `layer_state` on its attention layer alone, joined by `+`.

    Raises:
        ValueError: As for `SweepSettings`.
    """

    modes: str = "prefill+train+state"

    def __post_init__(self) -> None:
        self.check(_MODES)


def measure_bytes(subject: Any, point: Point, settings: MemorySettings) -> Row:
    """Bytes of one point.

    Raises:
        UnsupportedError: The subject lacks the point's mode.
    """
    # Threads and modules that a first call creates must not count against the point's memory limit.
    _measure(subject, replace(point, seq_len=1, batch_size=1))
    with memory_limit(settings.memory_limit_mb * 2**20, subject.device):
        return _measure(subject, point)


def _measure(subject: Any, point: Point) -> Row:
    """Bytes of the state, or peaks of a call that ran once before, so that lazily made workspaces exist.

    The process's own peak is read right after the first call, because counting tensors takes memory itself.
    """
    if point.mode.endswith("state"):
        return {"state_bytes": subject.state_bytes(point.batch_size, point.seq_len)}
    calls, work = calls_for(point.mode, subject)
    call = whole_call(calls, work, point)
    call()
    if point.role == "probe":
        return {}
    found = {"peak_resident_bytes": peak_resident_bytes()}
    release_memory()
    peak = peak_memory(call, calls.device)
    found |= {"peak_allocated_bytes": peak.allocated_bytes, "before_bytes": peak.before_bytes}
    found["peak_reserved_bytes"] = peak.reserved_bytes
    if work == "train":
        found["activation_bytes"] = saved_bytes(call)
    return {key: value for key, value in found.items() if value is not None}


def memory_metrics(rows: Sequence[Row], settings: MemorySettings) -> list[Metric]:
    """The headline, the metrics of each point and scaling exponents. Counts are exact and have no standard error."""
    sweep = of_role(rows, "sweep")
    headline = "longest_prefill_peak_bytes"
    return [
        *(replace(_point_metrics(row, {})[0], name=headline, at={}) for row in climb_end(rows, settings)),
        *(metric for row in (*sweep, *of_role(rows, "largest")) for metric in _point_metrics(row, settings.at(row))),
        *largest_batch_metrics(rows),
        *growth_metrics(
            "memory_exponent", sweep, settings, lambda row: row.get("peak_allocated_bytes", row.get("state_bytes"))
        ),
    ]


def _point_metrics(row: Row, at: At) -> list[Metric]:
    """The bytes of one row; a failed row has no value. The coordinates of a model's state do not include the mode."""
    suffix = "_largest_batch" if row["role"] == "largest" else ""
    where = at if row["mode"] == "state" else {**at, "mode": row["mode"]}
    if row["status"] != "ok":
        name = "state_bytes" if row["mode"].endswith("state") else "peak_allocated_bytes"
        return [Metric(name + suffix, None, "bytes", False, None, 0, where, row["status"])]
    return [
        Metric(name + suffix, float(row[name]), "bytes", better, None, 1, where)
        for name in _BYTES
        if name in row
        for better in (None if name == "peak_resident_bytes" else False,)
    ]


MEMORY = Sweep(
    sweep_info(
        name="memory",
        version=2,
        summary="Peak memory of prefill and training step, and size of the decode state, against sequence length",
        main_metric="longest_prefill_peak_bytes",
        scales=sweep_scales(MemorySettings, MemorySettings(SMOKE_LENGTHS)),
    ),
    MemorySettings,
    measure_bytes,
    memory_metrics,
)

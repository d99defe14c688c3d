"""Memory: peak bytes of prefill and of a training step, and bytes of the decode state, against sequence length.

Each point runs in a fresh process, so that no point sees what another left behind. What counts as a byte differs
between the CPU and CUDA; see `allocation.py`. `longest_prefill_peak_bytes` ranks models, taken at the longest length
asked for and at no other (as in `throughput.py`, and for the same reason).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...adapters.base import Adapter, Settings
from ...results.record import DataIdentity, Metric, Scalar
from ..base import Row, Sources, TaskData, TaskInfo, TaskScale
from ..measuring.allocation import memory_limit, peak_memory, peak_resident_bytes, saved_bytes
from ..settings import as_settings, parse_settings
from .measured_calls import Calls, calls_for
from .metrics import largest_batch_metrics
from .scaling import exponent_metrics
from .sweep_points import LAYER, Point, Points, climb, model_at, of_role, run_points, search_largest_batch
from .sweep_settings import SweepSettings, identity, release_memory

_MODES = ("prefill", "train", "state", f"{LAYER}prefill", f"{LAYER}train", f"{LAYER}state")


@dataclass(frozen=True)
class MemorySettings(SweepSettings):
    """What is measured.

    Attributes:
        modes: Any of `prefill`, `train` and `state` on the whole model, and of `layer_prefill`, `layer_train` and
            `layer_state` on its attention layer alone, joined by `+`.

    Raises:
        ValueError: As of `SweepSettings`.
    """

    modes: str = "prefill+train+state"

    def __post_init__(self) -> None:
        self.check(_MODES)


@dataclass(frozen=True)
class Memory:
    """The task; see the module's docstring."""

    info: TaskInfo

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:  # noqa: ARG002
        """Random tokens."""
        parse_settings(MemorySettings, settings)
        return identity("memory")

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:  # noqa: ARG002
        """The shape that every length fits in; `test` holds the lengths, the first `limit` of them."""
        chosen = parse_settings(MemorySettings, settings)
        shape = chosen.shape(max(chosen.seq_lens))
        return TaskData(shape, test=tuple(chosen.lengths(limit)))

    def points(self, settings: Settings, limit: int | None = None) -> Points:
        """Mode by mode and batch by batch from short to long, then the largest batches."""
        chosen = parse_settings(MemorySettings, settings)
        for mode in chosen.mode_names():
            for batch_of in chosen.batches():
                yield from climb(mode, chosen.lengths(limit), batch_of, past_failures=chosen.past_failures)
        for mode in chosen.largest_batch_modes():
            for seq_len in chosen.lengths(limit):
                yield from search_largest_batch(mode, seq_len, chosen.max_batch)

    def layer_sizes(self, settings: Settings) -> Mapping[str, int]:
        """Sizes of the attention layer alone that were set."""
        return parse_settings(MemorySettings, settings).layer_sizes()

    def measure(self, subject: Any, point: Point, settings: Settings) -> Row:
        """Bytes of one point."""
        chosen = parse_settings(MemorySettings, settings)
        # Threads and modules that the first call brings must not come out of the memory that the point may take.
        _measure(subject, replace(point, seq_len=1, batch_size=1))
        with memory_limit(chosen.memory_limit_mb * 2**20, subject.device):
            return _measure(subject, point)

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """Bytes of every point, in this process; a run has a process for each.

        The attention layer alone is `unsupported` here, as there is a model and nothing else.
        """
        points = self.points(settings, len(data.test))
        return run_points(points, lambda point: self.measure(model_at(point, adapter), point, settings))

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        """The headline, the metrics of each point and scaling exponents. Counts are exact: no standard error."""
        chosen = parse_settings(MemorySettings, settings)
        sweep = of_role(rows, "sweep")
        return [
            *_headline(sweep, chosen),
            *(metric for row in sweep for metric in _point_metrics(row, chosen.at(row))),
            *(metric for row in of_role(rows, "largest") for metric in _point_metrics(row, chosen.at(row))),
            *largest_batch_metrics(rows),
            *_exponents(sweep, chosen),
        ]


def _measure(subject: Any, point: Point) -> Row:
    if point.mode.endswith("state"):
        return {"state_bytes": subject.state_bytes(point.batch_size, point.seq_len)}
    calls, work = calls_for(point.mode, subject)
    return _measure_peak(calls, work, point)


def _measure_peak(calls: Calls, work: str, point: Point) -> Row:
    """Peaks of a call that ran once before, so that lazily made workspaces exist.

    The process's own peak is read after that first call: counting tensors, which comes next, takes memory itself.
    """
    inputs = calls.inputs(point.batch_size, point.seq_len)
    call: Callable[[], object] = (
        (lambda: calls.prefill(inputs, point.seq_len)) if work == "prefill" else (lambda: calls.train(inputs))
    )
    call()
    if point.role == "probe":
        return {}
    found = {"peak_resident_bytes": peak_resident_bytes()}
    release_memory()
    peak = peak_memory(call, calls.device)
    found |= {"peak_allocated_bytes": peak.allocated_bytes, "before_bytes": peak.before_bytes}
    if peak.reserved_bytes is not None:
        found["peak_reserved_bytes"] = peak.reserved_bytes
    if work == "train":
        found["activation_bytes"] = saved_bytes(call)
    return {key: value for key, value in found.items() if value is not None}


_BYTES = ("peak_allocated_bytes", "peak_reserved_bytes", "activation_bytes", "peak_resident_bytes", "state_bytes")


def _point_metrics(row: Row, at: Mapping[str, Scalar]) -> list[Metric]:
    """The bytes of one row; without a value where it failed. The coordinates of a model's state name no mode."""
    is_state = row["mode"].endswith("state")
    suffix = "_largest_batch" if row["role"] == "largest" else ""
    where = at if row["mode"] == "state" else {**at, "mode": row["mode"]}
    if row["status"] != "ok":
        name = "state_bytes" if is_state else "peak_allocated_bytes"
        return [Metric(name + suffix, None, "bytes", False, None, 0, where, row["status"])]
    return [
        Metric(
            name + suffix,
            float(row[name]),
            "bytes",
            None if name == "peak_resident_bytes" else False,
            None,
            1,
            where,
        )
        for name in _BYTES
        if name in row
    ]


def _headline(rows: Sequence[Row], settings: MemorySettings) -> list[Metric]:
    """Peak of prefill where its first climb ended: at the longest length, or without a value where it failed."""
    batch_of = settings.batches()[0]
    climbed = [row for row in rows if row["mode"] == "prefill" and row["batch_size"] == batch_of(row["seq_len"])]
    ends = next((row for row in climbed if row["status"] != "ok"), climbed[-1] if climbed else None)
    if ends is None:
        return []
    return [replace(_point_metrics(ends, {})[0], name="longest_prefill_peak_bytes", at={})]


def _exponents(rows: Sequence[Row], settings: MemorySettings) -> list[Metric]:
    climbs: dict[tuple[str, tuple[tuple[str, Scalar], ...]], list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        size = row.get("peak_allocated_bytes", row.get("state_bytes"))
        if row["status"] == "ok" and size:
            rest = tuple((key, value) for key, value in settings.at(row).items() if key != "seq_len")
            climbs[row["mode"], rest].append((row["seq_len"], size))
    return [
        metric
        for (mode, rest), points in climbs.items()
        for metric in exponent_metrics("memory_exponent", mode, points, dict(rest))
    ]


MEMORY = Memory(
    info=TaskInfo(
        name="memory",
        version=2,
        summary="Peak memory of prefill and training step, and size of the decode state, against sequence length",
        main_metric="longest_prefill_peak_bytes",
        data=("generated",),
        licence="Apache-2.0",
        citation="Zhang et al., The Hedgehog & the Porcupine, arXiv 2402.04347, figure 6 (axes only: no values known)",
        needs=frozenset(),  # a language model, or a classifier where `classes` says so
        recipes=("zero-shot",),
        own_device=True,
        scales={
            "smoke": TaskScale(settings=as_settings(MemorySettings(seq_lens=(256, 1024, 4096)))),
            "small": TaskScale(settings=as_settings(MemorySettings())),
            "paper": TaskScale(
                settings=as_settings(MemorySettings(seq_lens=tuple(2**power for power in range(9, 18))))
            ),
        },
    )
)

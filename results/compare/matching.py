"""Which numbers of two runs are compared with each other, and why others must not be."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from ..record import Metric, Record, Scalar
from ..stats.changes import QUALITY_UNITS
from .snapshot import Snapshot

_MACHINE = ("device", "gpu", "cpu", "threads")

_NO_IDENTITY = frozenset({"tokenizer_source", "label_mapping", "paired_by", "paired_digest"})
"""Details that say how data was read and not which: equal content is equal anywhere."""

MetricKey: TypeAlias = tuple[str, tuple[tuple[str, Scalar], ...]]
"""A metric's name, and the sorted coordinates of its sweep's point."""

PairedRecords: TypeAlias = tuple[Mapping[int, Record], Mapping[int, Record]]
"""A cell's records by seed in the baseline and in the candidate; empty for a side that has no such cell."""


@dataclass(frozen=True)
class CellIdentity:
    """What a cell measures, without its seed."""

    model: str
    backbone: str
    task: str
    recipe: str
    scale: str
    limit: int | None

    @classmethod
    def of(cls, record: Record) -> CellIdentity:
        """What a record's cell measures."""
        return cls(record.model, record.backbone, record.task, record.recipe, record.scale, record.limit)

    @property
    def title(self) -> str:
        """Such as `hedgehog / gpt / wikitext2`."""
        return " / ".join((self.model, self.backbone, self.task))


def paired_cells(baseline: Snapshot, candidate: Snapshot) -> dict[CellIdentity, PairedRecords]:
    """The records of each cell on both sides, in the order of the baseline."""
    left, right = _by_identity(baseline), _by_identity(candidate)
    return {cell: (left.get(cell, {}), right.get(cell, {})) for cell in dict.fromkeys([*left, *right])}


def _by_identity(snapshot: Snapshot) -> dict[CellIdentity, dict[int, Record]]:
    cells: dict[CellIdentity, dict[int, Record]] = defaultdict(dict)
    for record in snapshot.records:
        cells[CellIdentity.of(record)][record.seed] = record
    return cells


def left_out(baseline: Snapshot, candidate: Snapshot) -> Iterator[str]:
    """What is not compared though both sides have its cell: seeds of one side, and all but one of several settings."""
    for cell, (befores, afters) in paired_cells(baseline, candidate).items():
        for run, own, other in ((baseline, befores, afters), (candidate, afters, befores)):
            if (alone := sorted(own.keys() - other.keys())) and len(alone) < len(own):
                seeds = f"seed {alone[0]} is" if len(alone) == 1 else f"seeds {', '.join(map(str, alone))} are"
                yield f"{cell.title}: {seeds} in {run.name} alone and not compared"
    for run in (baseline, candidate):
        counts = Counter((CellIdentity.of(record), record.seed) for record in run.records)
        for (cell, seed), count in counts.items():
            if count > 1:
                times = f"{run.name} has it {count} times, with other settings"
                yield f"{cell.title}, seed {seed}: {times}; the last one is compared"


def metrics_of(record: Record) -> dict[MetricKey, Metric]:
    """The metrics that have a direction."""
    return {
        (m.name, tuple(sorted(m.at.items()))): m
        for m in record.metrics
        if m.higher_is_better is not None and m.status in ("ok", "oom")
    }


def distinct_metrics(record: Record) -> dict[MetricKey, Metric]:
    """`metrics_of` with each measurement once: of its milliseconds and its tokens per second, one is kept.

    Two metrics are one measurement if their raw samples are proportional, or inversely proportional.
    """
    chosen: dict[MetricKey, Metric] = {}
    shapes: list[list[float]] = []
    for key, metric in sorted(metrics_of(record).items(), key=lambda item: not item[0][1]):
        shape = _shape(metric.samples)
        if not shape or not any(_alike(shape, other) for other in shapes):
            chosen[key] = metric
        shapes += [shape] if shape else []
    return chosen


def _shape(samples: tuple[float, ...]) -> list[float]:
    """Absolute logarithms of the samples' ratios to the first; empty if these do not identify a measurement."""
    if len(samples) < 2 or min(samples) <= 0 or min(samples) == max(samples):
        return []
    return [abs(math.log(sample / samples[0])) for sample in samples]


def _alike(one: list[float], other: list[float]) -> bool:
    """Whether two shapes are the same up to the rounding of a baseline."""
    return len(one) == len(other) and all(abs(a - b) < 1e-3 for a, b in zip(one, other, strict=True))


def is_quality(metric: Metric) -> bool:
    """Whether the metric measures a model's quality, and not its time or memory."""
    return metric.unit in QUALITY_UNITS


def why_incomparable(baseline: Record, candidate: Record, metric: Metric) -> str:
    """The reason why two records' values of a metric must not be compared; empty if they may be."""
    if different := _different_data(baseline, candidate):
        return different
    before, after = baseline.settings, candidate.settings
    if changed := sorted(key for key in before.keys() & after.keys() if before[key] != after[key]):
        key = changed[0]
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        return f"settings differ: {key} was {before[key]}, is {after[key]}{more}"
    for key in ("dtype",) if is_quality(metric) else ("dtype", *_MACHINE):
        was, now = baseline.environment.get(key), candidate.environment.get(key)
        if was != now:
            return f"another {key}: was {was}, is {now}"
    return ""


def _different_data(baseline: Record, candidate: Record) -> str:
    before, after = baseline.data, candidate.data
    if before is None or after is None:
        return "a cell did not read its data"
    if (before.id, before.fingerprint) != (after.id, after.fingerprint):
        return f"different data: was {before.id} {before.fingerprint[:12]}, is {after.id} {after.fingerprint[:12]}"
    shared = (before.details.keys() & after.details.keys()) - _NO_IDENTITY
    changed = [name for name in shared if before.details[name] != after.details[name]]
    return f"different data: {min(changed)} changed" if changed else ""

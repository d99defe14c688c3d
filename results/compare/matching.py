"""Which numbers of two runs belong together, and which must not be compared, with the reason."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from ..record import Metric, Record, Scalar
from .snapshot import Snapshot

QUALITY_UNITS = frozenset({"1", "nats", "bits", "bits/byte"})
"""Units of what a model gets right; numbers in any other unit depend on the machine."""
_MACHINE = ("device", "gpu", "cpu", "threads")

Point: TypeAlias = tuple[tuple[str, Scalar], ...]


@dataclass(frozen=True)
class Place:
    """Where a cell stands, seeds aside."""

    model: str
    backbone: str
    task: str
    recipe: str
    scale: str
    limit: int | None

    @property
    def title(self) -> str:
        """Such as `hedgehog / gpt / wikitext2`."""
        return " / ".join((self.model, self.backbone, self.task))


Cells: TypeAlias = Mapping[int, Record]
"""Records by seed."""


@dataclass(frozen=True)
class PairedCells:
    """The cells of one place on both sides; an empty side has none.

    Attributes:
        place: Where they stand.
        baseline: By seed.
        candidate: By seed.
    """

    place: Place
    baseline: Cells
    candidate: Cells


def paired_cells(baseline: Snapshot, candidate: Snapshot) -> list[PairedCells]:
    """Every place of either side, in the order of the baseline."""
    left, right = _by_place(baseline), _by_place(candidate)
    return [PairedCells(place, left.get(place, {}), right.get(place, {})) for place in dict.fromkeys([*left, *right])]


def _by_place(snapshot: Snapshot) -> dict[Place, dict[int, Record]]:
    cells: dict[Place, dict[int, Record]] = defaultdict(dict)
    for r in snapshot.records:
        cells[Place(r.model, r.backbone, r.task, r.recipe, r.scale, r.limit)][r.seed] = r
    return cells


def metrics_of(record: Record) -> dict[tuple[str, Point], Metric]:
    """The metrics that have a direction, by name and point of the sweep."""
    return {
        (m.name, tuple(sorted(m.at.items()))): m
        for m in record.metrics
        if m.higher_is_better is not None and m.status in ("ok", "oom")
    }


def distinct_metrics(record: Record) -> dict[tuple[str, Point], Metric]:
    """`metrics_of` without those that say again what another says, such as tokens per second beside milliseconds.

    Two metrics are one measurement where their raw samples are proportional, or one's to the other's reciprocals.
    """
    chosen: dict[tuple[str, Point], Metric] = {}
    shapes: list[list[float]] = []
    for key, metric in sorted(metrics_of(record).items(), key=lambda item: not item[0][1]):
        shape = _shape(metric.samples)
        if not shape or not any(_alike(shape, other) for other in shapes):
            chosen[key] = metric
        shapes += [shape] if shape else []
    return chosen


def _shape(samples: tuple[float, ...]) -> list[float]:
    """The logarithms of samples over the first, signs aside; empty where there is nothing to tell apart."""
    if len(samples) < 2 or min(samples) <= 0 or min(samples) == max(samples):
        return []
    return [abs(math.log(sample / samples[0])) for sample in samples]


def _alike(one: list[float], other: list[float]) -> bool:
    """Whether two are the same up to the rounding of a baseline."""
    return len(one) == len(other) and all(abs(a - b) < 1e-3 for a, b in zip(one, other, strict=True))


def is_quality(metric: Metric) -> bool:
    """Whether the number says what a model gets right, and not how fast or large it is."""
    return metric.unit in QUALITY_UNITS


def why_incomparable(baseline: Record, candidate: Record, metric: Metric) -> str:
    """The reason why two records' values of a metric must not be compared; empty where they may."""
    if different := _different_data(baseline, candidate):
        return different
    before, after = dict(baseline.settings), dict(candidate.settings)
    if changed := sorted(key for key in before.keys() & after.keys() if _plain(before[key]) != _plain(after[key])):
        key = changed[0]
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        return f"settings differ: {key} was {before[key]}, is {after[key]}{more}"
    keys = ("dtype",) if is_quality(metric) else ("dtype", *_MACHINE)
    for key in keys:
        was, now = baseline.environment.get(key), candidate.environment.get(key)
        if was != now:
            return f"another {key}: was {was}, is {now}"
    return ""


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _different_data(baseline: Record, candidate: Record) -> str:
    before, after = baseline.data, candidate.data
    if before is None or after is None:
        return "a cell did not read its data"
    if (before.id, before.fingerprint) != (after.id, after.fingerprint):
        return f"different data: was {before.id} {before.fingerprint[:12]}, is {after.id} {after.fingerprint[:12]}"
    changed = [k for k in before.details.keys() & after.details.keys() if before.details[k] != after.details[k]]
    return f"different data: {sorted(changed)[0]} changed" if changed else ""

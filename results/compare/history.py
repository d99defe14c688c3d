"""Metrics over commits: lines of comparable measurements, with the changes that `compare` calls real.

The version of a run or of a baseline is the commit that its records state. Versions are in the order of their commits'
dates; one without a date keeps its place behind the one that was given before it. A line holds the values of one metric
of one cell that may be compared: another device, dtype, data or other settings begin another line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import TypeAlias

from ..foreign import format_json
from ..names import UsageError, unknown_name
from ..record import Metric, Record
from ..stats.statistics import seed_mean
from .matching import CellIdentity, MetricKey, distinct_metrics, metrics_of, why_incomparable
from .snapshot import Snapshot
from .text import finding_values
from .verdicts import Comparison, Finding, compare

REAL = ("regressed", "improved")
"""Verdicts that are changes."""

DateOf: TypeAlias = Callable[[str], str | None]
"""Gives the date of a commit, as ISO 8601; None if it is not known."""


@dataclass(frozen=True)
class Version:
    """The state of the code that a run measured.

    Attributes:
        run: Name of the run's folder or baseline file.
        commit: Commit of its records; empty if they state none.
        date: When the commit was made, as ISO 8601; empty if not known.
        has_changes: Whether files differed from the commit.
    """

    run: str
    commit: str
    date: str
    has_changes: bool = False

    @property
    def label(self) -> str:
        """Such as `52afb88 2026-11-30`, with a `+` if files differed; the run's name without a commit."""
        if not self.commit:
            return self.run.rstrip("/").rpartition("/")[2].removesuffix(".json")
        return " ".join(filter(None, (self.commit[:7] + ("+" if self.has_changes else ""), self.date[:10])))


@dataclass(frozen=True)
class HistoryPoint:
    """A metric at one version.

    Attributes:
        place: Index of the version.
        value: Mean over seeds; None if memory ran out.
        stderr: Its standard error, the metric's own for one seed; None if not known.
        change: What `compare` found against the point before; None for a line's first point.
    """

    place: int
    value: float | None
    stderr: float | None
    change: Finding | None = None

    @property
    def is_real(self) -> bool:
        """Whether the change from the point before is significant and beyond its margin."""
        return self.change is not None and self.change.verdict in REAL


@dataclass(frozen=True)
class HistoryLine:
    """Comparable values of one metric of one cell, oldest first.

    Attributes:
        cell: What was measured.
        metric: The metric at the first point.
        device: What it was measured on, such as `AMD EPYC, float32`.
        is_main: Whether the metric ranks models on its task.
        apart: Why its first point begins a line of its own; empty for the first line of a cell's metric.
        points: The points.
        overall: The last point compared with the first; None for fewer than three points.
    """

    cell: CellIdentity
    metric: Metric
    device: str
    is_main: bool
    apart: str
    points: tuple[HistoryPoint, ...]
    overall: Finding | None = None

    @property
    def changes(self) -> tuple[HistoryPoint, ...]:
        """The points whose change is real."""
        return tuple(point for point in self.points if point.is_real)

    @property
    def is_changed(self) -> bool:
        """Whether some step is a real change, or all steps together are."""
        return bool(self.changes) or (self.overall is not None and self.overall.verdict in REAL)


@dataclass(frozen=True)
class MetricHistory:
    """Versions in order, the lines over them, and remarks."""

    versions: tuple[Version, ...]
    lines: tuple[HistoryLine, ...]
    notes: tuple[str, ...] = ()


def history(snapshots: Sequence[Snapshot], date_of: DateOf = lambda _: None) -> MetricHistory:
    """Every metric that has a direction, over the versions of some runs.

    Args:
        snapshots: Runs and baselines.
        date_of: Dates of commits whose records state none.

    Raises:
        UsageError: There are fewer than two runs with a result.
    """
    dated = [(version, snapshot) for snapshot in snapshots for version in [_version(snapshot, date_of)]]
    ordered = _in_order([(version, snapshot) for version, snapshot in dated if snapshot.records])
    if len(ordered) < 2:
        raise UsageError(f"a history needs two runs or baselines with results; there are {len(ordered)}")
    runs = [snapshot for _, snapshot in ordered]
    compared: dict[tuple[int, int], Comparison] = {}

    def finding(before: int, after: int, line: _Draft) -> Finding | None:
        pair = before, after
        if pair not in compared:
            compared[pair] = compare(runs[before], runs[after])
        found = (each for each in compared[pair].findings if each.cell == line.cell)
        return next((each for each in found if each.key in (line.key, ("", ()))), None)

    notes = [
        f"{version.run} states no date of its commit; it keeps its place behind the run given before it"
        for version, _ in ordered
        if not version.date
    ]
    notes += [
        f"{record.model} / {record.backbone} / {record.task}, seed {record.seed}, has no result at {version.label}: "
        f"{record.status}"
        for version, run in ordered
        for record in run.records
        if record.status != "ok"
    ]
    notes += [note for run in runs for note in run.notes]
    lines = tuple(_judged(draft, finding) for draft in _drafts(runs))
    return MetricHistory(tuple(version for version, _ in ordered), lines, tuple(dict.fromkeys(notes)))


def _version(snapshot: Snapshot, date_of: DateOf) -> Version:
    """The version of the newest commit that the records state."""
    found = []
    for record in snapshot.records:
        commit = str(record.environment.get("git_commit") or "")
        date = str(record.environment.get("git_commit_date") or (date_of(commit) if commit else "") or "")
        found.append((date, commit, bool(record.environment.get("git_dirty"))))
    date, commit, has_changes = max(found, default=("", "", False))
    return Version(snapshot.name, commit, date, has_changes)


def _in_order(dated: Sequence[tuple[Version, Snapshot]]) -> list[tuple[Version, Snapshot]]:
    keys, last = [], ""
    for version, _ in dated:
        last = version.date or last
        keys.append(last)
    return [dated[i] for i in sorted(range(len(dated)), key=lambda i: (keys[i], i))]


@dataclass
class _Draft:
    """A line that is being filled, with the records behind each point."""

    cell: CellIdentity
    key: MetricKey
    metric: Metric
    is_main: bool
    apart: str
    points: list[tuple[HistoryPoint, Mapping[int, Record]]] = field(default_factory=list)


def _drafts(runs: Sequence[Snapshot]) -> list[_Draft]:
    lines: dict[tuple[CellIdentity, MetricKey], list[_Draft]] = {}
    for place, run in enumerate(runs):
        for cell, records in _cells(run).items():
            first = records[min(records)]
            known = [metrics_of(record) for record in records.values()]
            for key, metric in distinct_metrics(first).items():
                measured = [found[key] for found in known if key in found]
                drafts = lines.setdefault((cell, key), [])
                line, apart = _line_of(drafts, records, metric)
                if line is None:
                    line = _Draft(cell, key, metric, metric.name == first.main_metric, apart)
                    drafts.append(line)
                line.points.append((_point(place, measured), records))
    return [draft for drafts in lines.values() for draft in drafts]


def _cells(run: Snapshot) -> dict[CellIdentity, dict[int, Record]]:
    """The records with a result by cell and seed."""
    cells: dict[CellIdentity, dict[int, Record]] = {}
    for record in run.records:
        if record.status == "ok":
            cells.setdefault(CellIdentity.of(record), {})[record.seed] = record
    return cells


def _line_of(drafts: Sequence[_Draft], records: Mapping[int, Record], metric: Metric) -> tuple[_Draft | None, str]:
    """The line that records continue; or None, and what sets them apart from the newest line."""
    apart = ""
    for draft in drafts:
        before = draft.points[-1][1]
        seeds = sorted(before.keys() & records.keys())
        reasons = [why_incomparable(before[seed], records[seed], metric) for seed in seeds] or ["no seed in common"]
        apart = next(filter(None, reasons), "")
        if not apart:
            return draft, ""
    return None, apart


def _point(place: int, measured: Sequence[Metric]) -> HistoryPoint:
    values = [metric.value for metric in measured if metric.value is not None]
    if not values or not all(map(math.isfinite, values)):
        return HistoryPoint(place, None, None)
    if len(values) == 1:
        return HistoryPoint(place, values[0], measured[0].stderr)
    return HistoryPoint(place, *seed_mean(values))


def _judged(draft: _Draft, finding: Callable[[int, int, _Draft], Finding | None]) -> HistoryLine:
    points = [point for point, _ in draft.points]
    steps = [replace(after, change=finding(before.place, after.place, draft)) for before, after in pairwise(points)]
    overall = finding(points[0].place, points[-1].place, draft) if len(points) > 2 else None
    first = draft.points[0][1]
    device = _device(first[min(first)])
    return HistoryLine(draft.cell, draft.metric, device, draft.is_main, draft.apart, (*points[:1], *steps), overall)


def _device(record: Record) -> str:
    environment = record.environment
    name = environment.get("gpu") or environment.get("cpu") or environment.get("device") or "unknown device"
    return ", ".join(str(part) for part in (name, environment.get("dtype")) if part)


def history_json(found: MetricHistory) -> str:
    """The whole history as one object: versions in order, and each line with its points and their changes."""
    content = {
        "versions": [asdict(version) for version in found.versions],
        "lines": [
            {
                **asdict(line.cell),
                "metric": line.metric.name,
                "at": dict(line.metric.at),
                "unit": line.metric.unit,
                "higher_is_better": line.metric.higher_is_better,
                "is_main": line.is_main,
                "device": line.device,
                "apart": line.apart,
                "points": [_plain_point(point) for point in line.points],
                "overall": line.overall and finding_values(line.overall),
            }
            for line in found.lines
        ],
        "notes": list(found.notes),
    }
    return format_json(content, indent=1) + "\n"


def _plain_point(point: HistoryPoint) -> dict[str, object]:
    change = point.change and finding_values(point.change)
    return {"version": point.place, "value": point.value, "stderr": point.stderr, "change": change}


def shown_lines(lines: Iterable[HistoryLine], metrics: Sequence[str] = ()) -> list[HistoryLine]:
    """The lines for people: those of main metrics with two points or more, and every line with a real change.

    Args:
        lines: The lines of a history.
        metrics: Names or globs of metrics to show instead, whatever their lines hold.

    Raises:
        UnknownNameError: A name or glob matches no metric.
    """
    lines = list(lines)
    known = {line.metric.name for line in lines}
    if unknown := [pattern for pattern in metrics if not any(fnmatchcase(name, pattern) for name in known)]:
        raise unknown_name("metric", unknown[0], known)
    if metrics:
        return [line for line in lines if any(fnmatchcase(line.metric.name, pattern) for pattern in metrics)]
    return [line for line in lines if line.is_changed or (line.is_main and len(line.points) > 1)]

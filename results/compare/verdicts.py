"""Verdicts on a run held against an earlier one: improved, unchanged, regressed, or why there is none.

A number has regressed where it is worse by more than its margin and chance alone would not show such a change: its
p-value, after Holm's adjustment over everything compared, is below 0.05. It is unchanged where a worsening beyond the
margin can be ruled out at 95%. What is neither is undecided, and that is told, not passed. So is a speed where the
machine's own pace has changed by more than the margin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from ..names import unknown_name
from ..record import Metric, Record
from ..stats.scores import SampleScores, sample_scores
from .judgement import Change, adjusted, is_measurable, paired_change, plain_change, seeds_change, timings_change
from .matching import (
    PairedCells,
    Place,
    Point,
    distinct_metrics,
    is_quality,
    metrics_of,
    paired_cells,
    why_incomparable,
)
from .snapshot import Snapshot

Verdict: TypeAlias = Literal["regressed", "undecided", "missing", "incomparable", "improved", "unchanged", "new"]
VERDICTS: tuple[Verdict, ...] = ("regressed", "undecided", "missing", "incomparable", "improved", "unchanged", "new")
ALPHA = 0.05
QUALITY_MARGIN, SPEED_MARGIN = 0.005, 0.05
"""Margins as fractions: half a percent, or half a point, of quality; five percent of time and of memory."""
EXIT_FINE, EXIT_REGRESSED, EXIT_UNDECIDED = 0, 1, 4


@dataclass(frozen=True)
class Finding:
    """The verdict on one metric of one place.

    Attributes:
        place: Model, backbone, task, recipe, scale.
        metric: Its name; empty where a whole cell is missing or failed.
        at: Point of a sweep.
        verdict: See `VERDICTS`.
        reason: Why, where the numbers do not say it.
        before: The baseline's value, a mean over seeds; None where there is none.
        after: The candidate's.
        unit: Unit of both.
        change: The worsening; None where nothing could be compared.
        margin: How much worse is still taken for unchanged, on the scale of `change`.
        drifts: How much slower the machine itself was, by kind of work, where that was measured.
        p_value: Adjusted over all comparisons; None without a test.
        seeds: Seeds on both sides.
    """

    place: Place
    metric: str
    at: Point
    verdict: Verdict
    reason: str = ""
    before: float | None = None
    after: float | None = None
    unit: str = ""
    change: Change | None = None
    margin: float = 0.0
    drifts: Mapping[str, Change] = field(default_factory=dict)
    p_value: float | None = None
    seeds: tuple[int, ...] = ()

    @property
    def title(self) -> str:
        """Such as `hedgehog / gpt / wikitext2: perplexity`."""
        point = " ".join(f"{key}={value}" for key, value in self.at)
        what = " ".join(filter(None, (self.metric, point)))
        return f"{self.place.title}: {what}" if what else self.place.title


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        baseline: Name of the earlier run.
        candidate: Name of the run that is judged.
        findings: Worst first.
        notes: What there is to tell of either side.
    """

    baseline: str
    candidate: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    def count(self, verdict: Verdict) -> int:
        """How many findings have a verdict."""
        return sum(finding.verdict == verdict for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """1 for a regression; 4 where something could not be decided, is missing, or nothing was compared; else 0."""
        if self.count("regressed"):
            return EXIT_REGRESSED
        decided = self.count("improved") + self.count("unchanged")
        if not decided or self.count("undecided") or self.count("missing") or self.count("incomparable"):
            return EXIT_UNDECIDED
        return EXIT_FINE


def compare(baseline: Snapshot, candidate: Snapshot, tolerances: Mapping[str, float] | None = None) -> Comparison:
    """Holds one run against another, metric by metric.

    Args:
        baseline: The earlier one.
        candidate: The one that is judged.
        tolerances: Margins by metric, in percent or points, that take the place of the usual ones.

    Raises:
        UnknownNameError: A tolerance for a metric that neither side has.
    """
    margins = {name: percent / 100 for name, percent in (tolerances or {}).items()}
    known = {m.name for s in (baseline, candidate) for r in s.records for m in r.metrics}
    for name in margins:
        if name not in known:
            raise unknown_name("metric", name, known)
    findings = [
        finding
        for pair in paired_cells(baseline, candidate)
        for finding in _findings(pair, baseline, candidate, margins)
    ]
    p_values = {i: p for i, f in enumerate(findings) if f.change and (p := f.change.p_value) is not None}
    for i, p_value in adjusted(p_values).items():
        findings[i] = replace(findings[i], p_value=p_value)
    judged = sorted(map(_judged, findings), key=lambda finding: VERDICTS.index(finding.verdict))
    return Comparison(baseline.name, candidate.name, tuple(judged), (*baseline.notes, *candidate.notes))


def _findings(
    pair: PairedCells, baseline: Snapshot, candidate: Snapshot, margins: Mapping[str, float]
) -> list[Finding]:
    if not pair.baseline:
        return [Finding(pair.place, "", (), "new", "the baseline has no such cell")]
    if not pair.candidate:
        return [Finding(pair.place, "", (), "missing", "the candidate has no such cell")]
    seeds = sorted(pair.baseline.keys() & pair.candidate.keys())
    if not seeds:
        reason = f"no seed in common: the baseline has {_list(pair.baseline)}, the candidate {_list(pair.candidate)}"
        return [Finding(pair.place, "", (), "missing", reason)]
    befores, afters = [pair.baseline[seed] for seed in seeds], [pair.candidate[seed] for seed in seeds]
    if whole := _without_result(pair.place, befores, afters):
        return [replace(whole, seeds=tuple(seeds))]
    findings = []
    for (name, at), metric in distinct_metrics(befores[0]).items():
        sides = _Sides(pair.place, metric, at, befores, afters, baseline, candidate, margins.get(name))
        findings.append(replace(sides.finding(), seeds=tuple(seeds)))
    return findings


def _without_result(place: Place, befores: Sequence[Record], afters: Sequence[Record]) -> Finding | None:
    """The verdict on cells of which some have no result, on either side."""
    broken = [(b, a) for b, a in zip(befores, afters, strict=True) if b.status != "ok" or a.status != "ok"]
    if not broken:
        return None
    before, after = next(((b, a) for b, a in broken if b.status == "ok"), broken[0])
    reason = f"seed {after.seed} ended as {after.status}" + (f": {after.error.message}" if after.error else "")
    if before.status == "ok":
        return Finding(place, "", (), "regressed", f"{reason}; the baseline has a result")
    if after.status == "ok":
        return Finding(place, "", (), "improved", f"has a result, where the baseline ended as {before.status}")
    verdict: Verdict = "unchanged" if after.status == before.status else "incomparable"
    return Finding(place, "", (), verdict, f"{reason}; the baseline as {before.status}")


def _list(cells: Mapping[int, Record]) -> str:
    return ", ".join(map(str, sorted(cells)))


@dataclass(frozen=True)
class _Sides:
    """One metric on both sides, over the seeds they share."""

    place: Place
    metric: Metric
    at: Point
    befores: Sequence[Record]
    afters: Sequence[Record]
    baseline: Snapshot
    candidate: Snapshot
    margin: float | None

    def finding(self) -> Finding:
        """The change, not judged yet, or why there is none."""
        before, after = self._metrics(self.befores), self._metrics(self.afters)
        empty = Finding(self.place, self.metric.name, self.at, "incomparable", unit=self.metric.unit)
        for one, other in zip(self.befores, self.afters, strict=True):
            if reason := why_incomparable(one, other, self.metric):
                return replace(empty, reason=reason)
        if any(metric is None for metric in after):
            return replace(empty, verdict="missing", reason="the candidate did not measure it")
        was = [m.value for m in before if m is not None and m.value is not None]
        now = [m.value for m in after if m is not None and m.value is not None]
        if len(was) < len(before) or len(now) < len(after):
            return self._without_value(empty, len(was) == len(before), len(now) == len(after))
        default = QUALITY_MARGIN if is_quality(self.metric) else SPEED_MARGIN
        numbers = replace(
            empty,
            before=math.fsum(was) / len(was),
            after=math.fsum(now) / len(now),
            margin=default if self.margin is None else self.margin,
            drifts=self._drifts(),
        )
        if was == now:
            return replace(numbers, change=self._change(was, now) if is_measurable(self.metric, *was) else _NO_CHANGE)
        if not is_measurable(self.metric, *was):
            return replace(numbers, reason="no change can be measured from such a baseline")
        if not is_measurable(self.metric, *now):
            return replace(numbers, verdict="regressed", reason="not a number that can be")
        return replace(numbers, change=self._change(was, now))

    def _drifts(self) -> dict[str, Change]:
        """How the machine's pace changed, for numbers that depend on it and were taken with it."""
        if is_quality(self.metric) or self.metric.unit == "bytes":
            return {}
        sides = [[_paces(record) for record in side] for side in (self.befores, self.afters)]
        works = set.intersection(*(set(paces) for side in sides for paces in side))
        before, after = sides
        return {
            work: timings_change(_PACE, [paces[work] for paces in before], [paces[work] for paces in after])
            for work in sorted(works)
        }

    def _metrics(self, records: Sequence[Record]) -> list[Metric | None]:
        return [metrics_of(record).get((self.metric.name, self.at)) for record in records]

    def _without_value(self, empty: Finding, was: bool, now: bool) -> Finding:
        """A point of a sweep that was out of memory on one side or both."""
        if was:
            return replace(empty, verdict="regressed", reason="out of memory, where the baseline has a value")
        if now:
            return replace(empty, verdict="improved", reason="has a value, where the baseline ran out of memory")
        return replace(empty, verdict="unchanged", reason="out of memory on both sides")

    def _change(self, was: Sequence[float], now: Sequence[float]) -> Change:
        raw = [[m.samples if m else () for m in self._metrics(side)] for side in (self.befores, self.afters)]
        if raw[0] == raw[1] and all(raw[0]):
            return Change(0.0, 0.0, math.inf, "the same timings", sum(map(len, raw[0])))
        if not is_quality(self.metric) and all(len(samples) > 1 and min(samples) > 0 for s in raw for samples in s):
            return timings_change(self.metric, raw[0], raw[1])
        scores = [
            self._scores(self.befores, self.baseline, was),
            self._scores(self.afters, self.candidate, now),
        ]
        before, after = ([score for score in side if score is not None] for side in scores)
        if len(before) == len(after) == len(was) and _same_samples([*before, *after]):
            return paired_change(self.metric, before, after)
        if was == now:
            return Change(0.0, 0.0, math.inf, "the same values", len(was))
        if len(was) > 1:
            return seeds_change(self.metric, was, now)
        return plain_change(self.metric, was[0], now[0])

    def _scores(
        self, records: Sequence[Record], snapshot: Snapshot, values: Sequence[float]
    ) -> list[SampleScores | None]:
        metrics = [replace(self.metric, value=value, samples=()) for value in values]
        return [
            sample_scores(metric, snapshot.samples.get(record.cell_id, ()))
            for metric, record in zip(metrics, records, strict=True)
        ]


_NO_CHANGE = Change(0.0, None, math.inf, "tolerance", 1)


_PACE = Metric("pace_ms", None, "ms", False, None, 0)


def _paces(record: Record) -> dict[str, tuple[float, ...]]:
    return {
        str(metric.at.get("work", "")): metric.samples
        for metric in record.metrics
        if metric.name == _PACE.name and len(metric.samples) > 1
    }


def _same_samples(scores: Sequence[SampleScores]) -> bool:
    return len(scores[0]) > 1 and all(score.labels == scores[0].labels for score in scores)


def _judged(finding: Finding) -> Finding:
    """The verdict on a change that was measured."""
    change = finding.change
    if change is None or finding.verdict == "regressed":
        return finding
    if change.stderr is None:
        return replace(finding, verdict=_by_margin(change.worse, finding.margin))
    verdict = _by_test(change, finding.margin, finding.p_value)
    if verdict == "undecided":
        highest = 100 * _highest(change)
        return replace(finding, verdict=verdict, reason=f"may be up to {highest:.2g}% worse; more samples would tell")
    for work, drift in finding.drifts.items():
        if abs(drift.worse) > finding.margin:
            reason = f"the machine itself was {100 * drift.worse:+.2g}% slower at {work}"
            return replace(finding, verdict="undecided", reason=reason)
    return replace(finding, verdict=verdict)


def _by_test(change: Change, margin: float, p_value: float | None) -> Verdict:
    if p_value is not None and p_value < ALPHA and abs(change.worse) > margin:
        return "regressed" if change.worse > 0 else "improved"
    return "unchanged" if _highest(change) <= margin else "undecided"


def _highest(change: Change) -> float:
    """How much worse it may be: the upper end of the interval that leaves out 5% above."""
    return change.worse + change.half_width(2 * ALPHA)


def _by_margin(worse: float, margin: float) -> Verdict:
    if worse > margin:
        return "regressed"
    return "improved" if worse < -margin else "unchanged"

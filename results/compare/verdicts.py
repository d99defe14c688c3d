"""Verdicts on a run compared with an earlier one: improved, unchanged, regressed, or the reason why there is none.

A number has regressed if it is worse by more than its margin and the change is significant: its p-value, after Holm's
adjustment over everything compared, is below 0.05. It has improved if it is better by more than its margin and the
change is significant. It is unchanged if a worsening beyond the margin is ruled out at 95 %. Otherwise it is undecided.
A change without a standard error is judged by its margin alone. A time or a rate with a standard error is undecided if
the machine's own pace has changed by more than the margin.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, get_args

from ..names import unknown_name
from ..record import Metric, Record
from ..stats.changes import (
    ALPHA,
    Change,
    adjusted,
    in_points,
    is_measurable,
    paired_change,
    plain_change,
    seeds_change,
    timings_change,
)
from ..stats.quiet import PACE_METRIC, paces
from ..stats.scores import SampleScores, sample_scores
from . import matching
from .matching import CellIdentity, MetricKey, PairedRecords, is_quality
from .snapshot import Snapshot

Verdict: TypeAlias = Literal["regressed", "undecided", "missing", "incomparable", "improved", "unchanged", "new"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
QUALITY_MARGIN, SPEED_MARGIN = 0.005, 0.05
"""Margins as fractions: half a percent, or half a point, of quality; five percent of time and of memory."""
_ROUNDED = 1e-8
"""Two measured values are closer than this only if one is the other as a baseline rounds it."""
EXIT_FINE, EXIT_REGRESSED, EXIT_UNDECIDED = 0, 1, 4


@dataclass(frozen=True)
class Finding:
    """The verdict on one metric of one cell, over the seeds that both sides have.

    Attributes:
        cell: Model, backbone, task, recipe, scale, limit.
        verdict: One of `VERDICTS`.
        reason: Why, if the numbers alone do not explain the verdict.
        key: Name and coordinates of the metric; an empty name if the verdict is on the whole cell.
        before: The baseline's value, a mean over seeds; None without one.
        after: The candidate's value, a mean over seeds; None without one.
        unit: Unit of both.
        change: The worsening; None if nothing could be compared.
        margin: The largest worsening that counts as unchanged, on the scale of `change`.
        drifts: How much slower the machine itself was, by kind of work, if that was measured.
        p_value: Adjusted over all comparisons; None without a test.
        seeds: Seeds on both sides.
        in_points: Whether the change is in points, as that of a fraction; otherwise it is the logarithm of a ratio.
    """

    cell: CellIdentity
    verdict: Verdict
    reason: str = ""
    key: MetricKey = ("", ())
    before: float | None = None
    after: float | None = None
    unit: str = ""
    change: Change | None = None
    margin: float = 0.0
    drifts: Mapping[str, Change] = field(default_factory=dict)
    p_value: float | None = None
    seeds: tuple[int, ...] = ()
    in_points: bool = False

    def percent(self, change: float) -> float:
        """A change in points, or that of a ratio in percent."""
        return 100 * (change if self.in_points else math.expm1(change))

    @property
    def percent_unit(self) -> str:
        """What follows a number of `percent`."""
        return " points" if self.in_points else "%"

    @property
    def metric(self) -> str:
        """The metric's name."""
        return self.key[0]

    @property
    def title(self) -> str:
        """Such as `hedgehog / gpt / wikitext2: perplexity`."""
        what = " ".join(filter(None, (self.metric, *(f"{key}={value}" for key, value in self.key[1]))))
        return f"{self.cell.title}: {what}" if what else self.cell.title


@dataclass(frozen=True)
class Comparison:
    """The verdicts on a run.

    Attributes:
        baseline: Name of the earlier run.
        candidate: Name of the run that is judged.
        findings: Worst first.
        notes: Notes of both sides, and what is not compared.
    """

    baseline: str
    candidate: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    def count(self, verdict: Verdict) -> int:
        """How many findings have a verdict."""
        return sum(finding.verdict == verdict for finding in self.findings)

    def _repr_markdown_(self) -> str:
        """The table of the findings, for notebooks."""
        from .text import comparison_markdown

        return comparison_markdown(self)

    @property
    def exit_code(self) -> int:
        """1 for a regression; 4 if a metric is undecided, missing or incomparable, or none was compared; else 0."""
        if self.count("regressed"):
            return EXIT_REGRESSED
        decided = self.count("improved") + self.count("unchanged")
        if not decided or self.count("undecided") or self.count("missing") or self.count("incomparable"):
            return EXIT_UNDECIDED
        return EXIT_FINE


def compare(baseline: Snapshot, candidate: Snapshot, tolerances: Mapping[str, float] | None = None) -> Comparison:
    """Compares a run with an earlier one, metric by metric.

    Args:
        baseline: The earlier run.
        candidate: The run that is judged.
        tolerances: Margins by metric, in percent or points, in place of the default ones.

    Raises:
        UnknownNameError: A tolerance names a metric that neither side has.
    """
    margins = {name: percent / 100 for name, percent in (tolerances or {}).items()}
    known = {m.name for s in (baseline, candidate) for r in s.records for m in r.metrics}
    if unknown := [name for name in margins if name not in known]:
        raise unknown_name("metric", unknown[0], known)
    findings = [
        finding
        for cell, records in matching.paired_cells(baseline, candidate).items()
        for finding in _findings(cell, records, (baseline, candidate), margins)
    ]
    p_values = {i: p for i, f in enumerate(findings) if f.change and (p := f.change.p_value) is not None}
    for i, p_value in adjusted(p_values).items():
        findings[i] = replace(findings[i], p_value=p_value)
    judged = sorted(map(_judged, findings), key=lambda finding: VERDICTS.index(finding.verdict))
    notes = (*baseline.notes, *candidate.notes, *matching.left_out(baseline, candidate))
    return Comparison(baseline.name, candidate.name, tuple(judged), notes)


def _findings(
    cell: CellIdentity, records: PairedRecords, runs: tuple[Snapshot, Snapshot], margins: Mapping[str, float]
) -> Iterator[Finding]:
    """The findings of one cell, not judged yet."""
    seeds = tuple(sorted(records[0].keys() & records[1].keys()))
    befores, afters = ([side[seed] for seed in seeds] for side in records)
    if not records[0]:
        yield Finding(cell, "new", "the baseline has no such cell")
    elif not records[1]:
        yield Finding(cell, "missing", "the candidate has no such cell")
    elif not seeds:
        was, now = (", ".join(map(str, sorted(side))) for side in records)
        yield Finding(cell, "missing", f"no seed in common: the baseline has {was}, the candidate {now}")
    elif whole := _without_result(cell, befores, afters):
        yield replace(whole, seeds=seeds)
    else:
        known = [[matching.metrics_of(record) for record in side] for side in (befores, afters)]
        for key, metric in matching.distinct_metrics(befores[0]).items():
            before, after = ([metrics.get(key) for metrics in side] for side in known)
            sides = _Side(befores, before, runs[0]), _Side(afters, after, runs[1])
            margin = margins.get(metric.name, QUALITY_MARGIN if is_quality(metric) else SPEED_MARGIN)
            scale = in_points(metric)
            empty = Finding(cell, "incomparable", key=key, unit=metric.unit, seeds=seeds, in_points=scale)
            yield _finding(metric, *sides, empty, margin)


def _without_result(cell: CellIdentity, befores: Sequence[Record], afters: Sequence[Record]) -> Finding | None:
    """The verdict on a cell if it has no result for some seed on either side."""
    broken = [(b, a) for b, a in zip(befores, afters, strict=True) if b.status != "ok" or a.status != "ok"]
    if not broken:
        return None
    before, after = next(((b, a) for b, a in broken if b.status == "ok"), broken[0])
    reason = f"seed {after.seed} ended as {after.status}" + (f": {after.error.message}" if after.error else "")
    if before.status == "ok":
        return Finding(cell, "regressed", f"{reason}; the baseline has a result")
    if after.status == "ok":
        return Finding(cell, "improved", f"has a result, where the baseline ended as {before.status}")
    verdict: Verdict = "unchanged" if after.status == before.status else "incomparable"
    return Finding(cell, verdict, f"{reason}; the baseline as {before.status}")


@dataclass(frozen=True)
class _Side:
    """One metric on one side, over the seeds that both sides share.

    Attributes:
        records: One for each seed.
        metrics: The metric in each record; None in a record that lacks it.
        snapshot: The side.
    """

    records: Sequence[Record]
    metrics: Sequence[Metric | None]
    snapshot: Snapshot

    @property
    def values(self) -> list[float]:
        """The values of the seeds that have one."""
        return [m.value for m in self.metrics if m is not None and m.value is not None]

    def scores(self, metric: Metric) -> list[SampleScores]:
        """The scores of each seed whose predictions reproduce its value."""
        found = (
            sample_scores(replace(metric, value=value, samples=()), self.snapshot.samples.get(record.cell_id, ()))
            for value, record in zip(self.values, self.records, strict=True)
        )
        return [scores for scores in found if scores is not None]


def _finding(metric: Metric, before: _Side, after: _Side, empty: Finding, margin: float) -> Finding:
    """The change of a metric, not judged yet, or the reason why there is none; `empty` is filled in."""
    for one, other in zip(before.records, after.records, strict=True):
        if reason := matching.why_incomparable(one, other, metric):
            return replace(empty, reason=reason)
    if None in after.metrics:
        return replace(empty, verdict="missing", reason="the candidate did not measure it")
    if None in before.metrics:
        return replace(empty, reason="the baseline did not measure it with every seed")
    was, now, seeds = before.values, after.values, len(before.records)
    if len(was) < seeds and len(now) < seeds:
        return replace(empty, verdict="unchanged", reason="out of memory on both sides")
    if len(now) < seeds:
        return replace(empty, verdict="regressed", reason="out of memory, where the baseline has a value")
    if len(was) < seeds:
        return replace(empty, verdict="improved", reason="has a value, where the baseline ran out of memory")
    drifts = {} if is_quality(metric) or metric.unit == "bytes" else _drifts(before.records, after.records)
    means = math.fsum(was) / seeds, math.fsum(now) / seeds
    numbers = replace(empty, before=means[0], after=means[1], margin=margin, drifts=drifts)
    if not is_measurable(metric, *was):
        if was == now:
            return replace(numbers, change=Change(0.0, None, math.inf, "tolerance", 1))
        return replace(numbers, reason="no change can be measured from such a baseline")
    if not is_measurable(metric, *now):
        return replace(numbers, verdict="regressed", reason="the value is not finite, or not positive")
    return replace(numbers, change=_change(metric, before, after))


def _change(metric: Metric, before: _Side, after: _Side) -> Change:
    """The change by the most certain method that both sides allow."""
    was, now = before.values, after.values
    timings = [[metric.samples if metric else () for metric in side.metrics] for side in (before, after)]
    is_same = all(math.isclose(one, other, rel_tol=_ROUNDED) for one, other in zip(was, now, strict=True))
    if is_same and all(timings[0]) and all(timings[1]):
        return Change(0.0, 0.0, math.inf, "the same timings", sum(map(len, timings[0])))
    if not is_quality(metric) and all(len(one) > 1 and min(one) > 0 for side in timings for one in side):
        return timings_change(metric, *timings)
    scores = before.scores(metric), after.scores(metric)
    labels = {score.labels for side in scores for score in side}
    if len(scores[0]) == len(scores[1]) == len(was) and len(labels) == 1 and len(scores[0][0].labels) > 1:
        return paired_change(metric, *scores)
    if is_same:
        return Change(0.0, 0.0, math.inf, "the same values", len(was))
    return seeds_change(metric, was, now) if len(was) > 1 else plain_change(metric, was[0], now[0])


_PACE = Metric(PACE_METRIC, None, "ms", False, None, 0)


def _drifts(befores: Sequence[Record], afters: Sequence[Record]) -> dict[str, Change]:
    """How the machine's pace changed, by kind of work that every record measured."""
    before, after = [paces(record) for record in befores], [paces(record) for record in afters]
    return {
        work: timings_change(_PACE, [each[work] for each in before], [each[work] for each in after])
        for work in sorted(set.intersection(*map(set, (*before, *after))))
    }


def _judged(finding: Finding) -> Finding:
    """The finding with the verdict that its change calls for."""
    change, margin = finding.change, finding.margin
    if change is None:
        return finding
    highest = change.worse + change.half_width(2 * ALPHA)  # the upper end of the one-sided 95 % interval
    is_significant = change.stderr is None or (finding.p_value is not None and finding.p_value < ALPHA)
    if is_significant and abs(change.worse) > margin:
        finding = replace(finding, verdict="regressed" if change.worse > 0 else "improved")
    elif change.stderr is None or highest <= margin:
        finding = replace(finding, verdict="unchanged")
    else:
        worst = f"{finding.percent(highest):.2g}{finding.percent_unit}"
        reason = f"may be up to {worst} worse; more samples would tell"
        return replace(finding, verdict="undecided", reason=reason)
    for work, drift in finding.drifts.items():
        if change.stderr is not None and abs(drift.worse) > margin:
            reason = f"the machine itself was {100 * math.expm1(drift.worse):+.2g}% slower at {work}"
            return replace(finding, verdict="undecided", reason=reason)
    return finding

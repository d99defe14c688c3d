"""What a converted model's score owes to its attention, and whether a hybrid's linear branch does any work.

A hybrid of a window and linear attention is scored twice, with its linear branch and without. If the two scores are the
same, the window does all the work, and the score says nothing about linear attention. The verdict is that of the
leaderboard: a paired difference over the same documents and seeds, with p-values adjusted by Holm's method over the
hybrids of one column.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..audit import CONTROLS, LINEAR_EXPOSURE
from ..record import WITHOUT_BRANCH, Metric, Record
from ..stats.changes import ALPHA, Change, adjusted, paired_change
from ..stats.evidence import Evidence, Scores, no_scores
from ..stats.statistics import seed_mean
from .aggregate import SeedGroup
from .format import format_with_error
from .row import Conditions, grouped


@dataclass(frozen=True)
class BranchEffect:
    """A hybrid's score with and without its linear branch, each a mean over the seeds that have both.

    Attributes:
        metric: The score of the first seed, for its name and unit.
        together: Value and standard error with the linear branch.
        alone: Value and standard error without it: the window alone.
        gain: What the branch adds, positive where it helps, in the score's unit.
        change: From the window alone to both. Of one seed without kept predictions its error is the sum of both scores'
            errors, the largest that any correlation of the two allows. None if an error is unknown or a score is not
            finite.
        pairing: What is paired, in words; empty where nothing is.
    """

    metric: Metric
    together: tuple[float, float | None]
    alone: tuple[float, float | None]
    gain: float
    change: Change | None
    pairing: str

    def verdict(self, p_value: float | None) -> str:
        """Whether the branch does any work, by the change's p-value after adjustment."""
        if not math.isfinite(self.gain):
            return "undecided, a score is not finite"
        if self.gain == 0 and (self.change is None or not self.pairing or self.change.stderr == 0):
            return "its linear branch does no work"
        if p_value is None:
            return "undecided without standard errors"
        if p_value < ALPHA:
            return "its linear branch helps" if self.gain > 0 else "its linear branch harms"
        if self.pairing:
            return "its linear branch does no work that can be told from chance"
        return "undecided, as no predictions were kept to pair the two scores"


def branch_effect(cells: SeedGroup, scores: Scores = no_scores) -> BranchEffect | None:
    """The effect of a hybrid's linear branch on its main metric; None for other models, and for sweeps.

    Args:
        cells: The seeds of one model.
        scores: Gives a record's metric document by document.
    """
    found = [(record, *pair) for record in cells.records if (pair := _pair(record))]
    if not found:
        return None
    records, together, alone = zip(*found, strict=True)
    sign = 1.0 if together[0].higher_is_better else -1.0
    gains = [sign * (_value(first) - _value(second)) for first, second in zip(together, alone, strict=True)]
    gain = seed_mean(gains)[0] if all(map(math.isfinite, gains)) else math.nan
    change, pairing = _over_documents(records, together, alone, scores) or _over_seeds(gains, together[0], alone[0])
    return BranchEffect(together[0], _mean(together), _mean(alone), gain, change, pairing)


def branch_notes(groups: Iterable[SeedGroup], scores: Scores = no_scores) -> dict[Conditions, list[str]]:
    """One sentence for each hybrid on each task, such as `NAME on TASK: perplexity 31.2 with its linear branch, …`."""
    notes: dict[Conditions, list[str]] = defaultdict(list)
    for where, members in grouped(groups, lambda cells: cells.comparison).items():
        effects = {i: effect for i, cells in enumerate(members) if (effect := branch_effect(cells, scores))}
        changes = {i: effect.change for i, effect in effects.items() if effect.change}
        p_values = adjusted({i: p for i, change in changes.items() if (p := change.p_value) is not None})
        for i, effect in effects.items():
            said = "; ".join(_parts(effect, p_values.get(i)))
            notes[where].append(f"{members[i].label} on {where.task}: {said}.")
    return notes


def _parts(effect: BranchEffect, p_value: float | None) -> Iterator[str]:
    with_branch, without = (format_with_error(*score, effect.metric.unit) for score in (effect.together, effect.alone))
    yield f"{effect.metric.name} {with_branch} with its linear branch, {without} without"
    if effect.gain and math.isfinite(effect.gain) and p_value is not None:
        better = "better" if effect.gain > 0 else "worse"
        size = format_with_error(abs(effect.gain), None, effect.metric.unit)
        p = f"p = {p_value:.2g}" if p_value >= 1e-4 else "p < 0.0001"
        yield f"the branch makes it {better} by {size}, {effect.pairing or 'not paired'}, {p}"
    yield effect.verdict(p_value)


def _pair(record: Record) -> tuple[Metric, Metric] | None:
    """The main metric with and without the linear branch, if each is a single number with a direction."""
    names = (record.main_metric, f"{record.main_metric}_{WITHOUT_BRANCH}")
    found = [[m for m in record.metrics if m.name == name and m.value is not None] for name in names]
    if [len(metrics) for metrics in found] != [1, 1]:
        return None
    ((together,), (alone,)) = found
    return (together, alone) if together.at == alone.at and together.higher_is_better is not None else None


def _over_documents(
    records: Sequence[Record], together: Sequence[Metric], alone: Sequence[Metric], scores: Scores
) -> tuple[Change, str] | None:
    """The change over documents and seeds; None unless every seed has both scores of the same documents."""
    before, after = (Evidence(tuple(records), tuple(side), scores).scores for side in (alone, together))
    if not before or not after or before[0].labels != after[0].labels:
        return None
    change = paired_change(together[0], before, after)
    over_seeds = f" and {len(records)} seeds" if len(records) > 1 else ""
    return (change, f"paired over {change.n} documents{over_seeds}") if math.isfinite(change.worse) else None


def _over_seeds(gains: Sequence[float], together: Metric, alone: Metric) -> tuple[Change | None, str]:
    """The change over seeds, each of which pairs two scores; of a single seed the one with the largest error."""
    if not all(map(math.isfinite, gains)):
        return None, ""
    gain, stderr = seed_mean(gains)
    if stderr is not None:
        return Change(-gain, stderr, len(gains) - 1, "paired seeds", len(gains)), f"paired over {len(gains)} seeds"
    if together.stderr is None or alone.stderr is None:
        return None, ""
    return Change(-gain, together.stderr + alone.stderr, math.inf, "unpaired", 1), ""


def _mean(metrics: Sequence[Metric]) -> tuple[float, float | None]:
    mean, over_seeds = seed_mean([_value(metric) for metric in metrics])
    return mean, metrics[0].stderr if len(metrics) == 1 else over_seeds


def _value(metric: Metric) -> float:
    assert metric.value is not None
    return metric.value


def audit_notes(groups: Iterable[SeedGroup]) -> dict[Conditions, list[str]]:
    """One sentence for each model on each task that was audited, or that has a window and linear attention."""
    notes: dict[Conditions, list[str]] = defaultdict(list)
    for cells in groups:
        parts = [*_exposure(cells.records), *_controls(cells.records)]
        if parts:
            notes[cells.comparison].append(f"{cells.label} on {cells.comparison.task}: {'; '.join(parts)}.")
    return notes


def _exposure(records: Iterable[Record]) -> Iterator[str]:
    """The linear exposure, told beside every score of a hybrid."""
    shares = [
        m.value for record in records for m in record.metrics if m.name == LINEAR_EXPOSURE and m.value is not None
    ]
    if shares:
        share, _ = seed_mean(shares)
        said = f"{_percent(share)} of the scored tokens have a context longer than its window"
        yield said if share else f"{said}, so the score says nothing about linear attention"


def _controls(records: Iterable[Record]) -> Iterator[str]:
    """The main metric as it is, and with each other attention."""
    records = list(records)
    found = [(words, _main(records, f"_{ending}")) for ending, words in CONTROLS.items()]
    scores = [f"{_told(metrics)} with {words}" for words, metrics in found if metrics]
    if scores:
        main = records[0].main_metric
        yield f"{main} {_told(_main(records, ''))} as it is, and the same weights give {', '.join(scores)}"


def _main(records: Iterable[Record], ending: str) -> list[Metric]:
    return [m for record in records for m in record.metrics if m.name == record.main_metric + ending and not m.at]


def _told(metrics: list[Metric]) -> str:
    values = [metric.value for metric in metrics if metric.value is not None]
    if len(values) < len(metrics) or not values:
        return "no number"
    mean, over_seeds = seed_mean(values)
    return format_with_error(mean, metrics[0].stderr if len(metrics) == 1 else over_seeds, metrics[0].unit)


def _percent(share: float) -> str:
    return "fewer than 1%" if 0 < share < 0.01 else f"{share:.0%}" if share <= 0.99 or share == 1 else "more than 99%"

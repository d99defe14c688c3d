"""Whether the linear branch of a converted hybrid does any work, computed from records.

A hybrid of a window and linear attention is scored twice, with its linear branch and without. If the two scores are the
same, the window does all the work, and the score is not one of linear attention.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..record import Metric, Record
from ..stats.statistics import errors_that_count, seed_mean
from .aggregate import SeedGroup
from .format import format_with_error
from .row import Conditions
from .tables import WITHOUT_BRANCH


@dataclass(frozen=True)
class BranchEffect:
    """A hybrid's score with and without its linear branch, each a mean over the seeds that have both.

    Attributes:
        metric: The score of the first seed, for its name and unit.
        together: Value and standard error with the linear branch.
        alone: Value and standard error without it: the window alone.
        gain: What the branch adds, positive where it helps, in the score's unit.
        gain_stderr: Smallest and largest standard error of the gain. Over several seeds the two are equal, as seeds
            pair. A single seed has no paired error; for any correlation of the two scores it lies between the
            difference and the sum of their errors. None if an error is unknown.
        seeds: How many seeds have both scores.
    """

    metric: Metric
    together: tuple[float, float | None]
    alone: tuple[float, float | None]
    gain: float
    gain_stderr: tuple[float, float] | None
    seeds: int

    @property
    def verdict(self) -> str:
        """Whether the branch does any work, judged by the standard errors."""
        if not math.isfinite(self.gain):
            return "undecided, a score is not finite"
        if self.gain == 0 and (self.seeds == 1 or self.gain_stderr == (0.0, 0.0)):
            return "its linear branch does no work"
        if self.gain_stderr is None:
            return "undecided without standard errors"
        smallest, largest = self.gain_stderr
        errors = errors_that_count(self.seeds)
        if abs(self.gain) > errors * largest:
            return "its linear branch helps" if self.gain > 0 else "its linear branch harms"
        if abs(self.gain) <= errors * smallest:
            return "its linear branch does no work that can be told from chance"
        return "undecided, the two standard errors are not of the difference"


def branch_effect(cells: SeedGroup) -> BranchEffect | None:
    """The effect of a hybrid's linear branch on its main metric; None for other models, and for sweeps."""
    pairs = [pair for record in cells.records if (pair := _pair(record))]
    if not pairs:
        return None
    together, alone = zip(*pairs, strict=True)
    sign = 1.0 if together[0].higher_is_better else -1.0
    gains = [sign * (_value(first) - _value(second)) for first, second in pairs]
    gain, over_seeds = seed_mean(gains) if all(map(math.isfinite, gains)) else (math.nan, None)
    paired = None if over_seeds is None else (over_seeds, over_seeds)
    return BranchEffect(
        metric=together[0],
        together=_mean(together),
        alone=_mean(alone),
        gain=gain,
        gain_stderr=_bounds(*pairs[0]) if len(pairs) == 1 else paired,
        seeds=len(pairs),
    )


def branch_notes(groups: Iterable[SeedGroup]) -> dict[Conditions, list[str]]:
    """One sentence for each hybrid on each task, such as `NAME on TASK: perplexity 31.2 with its linear branch, …`."""
    notes: dict[Conditions, list[str]] = defaultdict(list)
    for cells in groups:
        if effect := branch_effect(cells):
            notes[cells.comparison].append(f"{cells.label} on {cells.comparison.task}: {'; '.join(_parts(effect))}.")
    return notes


def _parts(effect: BranchEffect) -> Iterator[str]:
    with_branch, without = (format_with_error(*score, effect.metric.unit) for score in (effect.together, effect.alone))
    yield f"{effect.metric.name} {with_branch} with its linear branch, {without} without"
    if effect.gain and math.isfinite(effect.gain) and effect.gain_stderr:
        smallest, largest = effect.gain_stderr
        change = f"the branch makes it {'better' if effect.gain > 0 else 'worse'} by"
        if effect.seeds > 1:
            size = format_with_error(abs(effect.gain), largest, effect.metric.unit)
            yield f"{change} {size}, paired over {effect.seeds} seeds"
        else:
            size = format_with_error(abs(effect.gain), None, effect.metric.unit)
            yield f"{change} {size}, of which the standard error is between {smallest:.2g} and {largest:.2g}"
    yield effect.verdict


def _pair(record: Record) -> tuple[Metric, Metric] | None:
    """The main metric with and without the linear branch, if each is a single number with a direction."""
    names = (record.main_metric, record.main_metric + WITHOUT_BRANCH)
    found = [[m for m in record.metrics if m.name == name and m.value is not None] for name in names]
    if [len(metrics) for metrics in found] != [1, 1]:
        return None
    ((together,), (alone,)) = found
    return (together, alone) if together.at == alone.at and together.higher_is_better is not None else None


def _mean(metrics: Sequence[Metric]) -> tuple[float, float | None]:
    mean, over_seeds = seed_mean([_value(metric) for metric in metrics])
    return mean, metrics[0].stderr if len(metrics) == 1 else over_seeds


def _bounds(together: Metric, alone: Metric) -> tuple[float, float] | None:
    if together.stderr is None or alone.stderr is None:
        return None
    return abs(together.stderr - alone.stderr), together.stderr + alone.stderr


def _value(metric: Metric) -> float:
    assert metric.value is not None
    return metric.value

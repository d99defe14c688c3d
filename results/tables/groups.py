"""The score of a group of tasks such as GLUE: the ratio of sums over its tasks, which is the paper's % Recover."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..names import FAMILIES, GROUPS
from .aggregate import main_rows, percent_of, reference_of
from .row import REFERENCE_MODEL, Conditions, Row, grouped


@dataclass(frozen=True)
class GroupScore:
    """A model's score over a group of tasks.

    Attributes:
        model: Canonical model spec.
        comparison: Where it was measured; its task is the group and its data is empty.
        percent_recovered: 100 · Σ scores / Σ softmax scores (inverted where lower is better) over the tasks that both
            have; None unless these are scores of quality in one unit and direction, and both sums are positive.
        done: Tasks of the group for which model and softmax have comparable scores.
        total: Tasks of the group.
        variant: As in `Row`.
    """

    model: str
    comparison: Conditions
    percent_recovered: float | None
    done: int
    total: int
    variant: int = 0


def group_scores(rows: Iterable[Row], tasks_of: Mapping[str, Collection[str]] = GROUPS) -> list[GroupScore]:
    """Scores of every group: the part of a task's name before `/`.

    Tasks whose names hold settings, and those of `FAMILIES`, are in no group.

    Args:
        rows: Rows of the leaderboard.
        tasks_of: The tasks of groups with a fixed list; others of that name do not count. Any other group consists of
            the tasks that any model of the same backbone, recipe, scale and limit was run on, failed cells included.
    """
    members_of: dict[Conditions, list[Row]] = defaultdict(list)
    for where, main in main_rows(rows).items():
        group = where.task.partition("/")[0]
        is_member = "/" in where.task and ":" not in where.task and group not in FAMILIES
        if is_member and where.task in tasks_of.get(group, (where.task,)):
            members_of[replace(where, task=group, data="")] += main
    return [
        score
        for comparison, members in members_of.items()
        for score in _scores(comparison, members, tasks_of.get(comparison.task, ()))
    ]


def _scores(comparison: Conditions, rows: Sequence[Row], expected: Collection[str]) -> Iterable[GroupScore]:
    tasks = {row.comparison.task for row in rows} | set(expected)
    references = [row for row in rows if row.model == REFERENCE_MODEL and row.value is not None]
    for (model, variant), own in grouped(rows, lambda row: row.key).items():
        pairs = [(row, other) for row in own if row.value is not None and (other := reference_of(row, references))]
        done = len({row.comparison.task for row, _ in pairs})
        percent = _ratio_of_sums(pairs) if len(pairs) == done else None
        yield GroupScore(model, comparison, percent, done, len(tasks), variant)


def _ratio_of_sums(pairs: Sequence[tuple[Row, Row]]) -> float | None:
    if len({(row.unit, row.higher_is_better) for row, _ in pairs}) != 1 or not pairs[0][0].is_quality:
        return None
    total = sum(row.value for row, _ in pairs if row.value is not None)
    reference = sum(other.value for _, other in pairs if other.value is not None)
    return percent_of(total, reference, pairs[0][0].higher_is_better)

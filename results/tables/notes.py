"""Notes beside the tables: which numbers were kept apart and why, and what the linear branches of hybrids add."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from ..names import FAMILIES
from ..stats.chance import ChanceLevel, chance_level, is_signed
from ..stats.evidence import Scores, no_scores
from ..stats.statistics import errors_that_count
from .aggregate import SeedGroup, main_rows, rows_of_groups
from .conversion import audit_notes, branch_notes
from .format import format_with_error
from .row import REFERENCE_MODEL, Conditions, Row, grouped

_MOST_SETTINGS = 5

WITH_TEACHER, CONTINUED = ("finetuned-conversion", "scratch-conversion"), "softmax:continued=true"
TEACHER_NOTE = (
    "Percentages are of softmax, the teacher, which took fewer training steps than its students; the control that took "
    f"as many is {CONTINUED}{{}}."
)
"""Of tables of recipes `WITH_TEACHER`; the placeholder says whether the control was run."""


def section_notes(groups: Sequence[SeedGroup], scores: Scores = no_scores) -> dict[Conditions, list[str]]:
    """Every note, by its comparison, from records that `group_seeds` has grouped.

    Args:
        groups: The records.
        scores: Gives a record's metric document by document.
    """
    found = [apart_notes(groups), branch_notes(groups, scores), audit_notes(groups), percent_notes(groups)]
    return {where: [note for notes in found for note in notes.get(where, ())] for where in dict.fromkeys(chain(*found))}


def percent_notes(groups: Sequence[SeedGroup]) -> dict[Conditions, list[str]]:
    """Notes on percentages of softmax: it has not learned, it took fewer steps, or a sum contains correlations."""
    notes: dict[Conditions, list[str]] = defaultdict(list)
    main = main_rows(rows_of_groups(groups))
    for where, rows in main.items():
        notes[where] += [note for row in rows if row.model == REFERENCE_MODEL and (note := chance_note(row))]
    for first, *others in grouped(main, lambda where: where.section).values():
        if first.recipe in WITH_TEACHER:
            models = {row.model for where in (first, *others) for row in main[where]}
            notes[first].append(TEACHER_NOTE.format("" if CONTINUED in models else ", which was not run"))
        tasks = grouped((first, *others), lambda where: where.task.partition("/")[0])
        for group, members in tasks.items():
            signed = [where.task for where in members if "/" in where.task and is_signed(main[where][0].metric)]
            if signed and group not in FAMILIES:
                notes[first].append(
                    f"{group}: the sums behind % of softmax contain {', '.join(signed)}, scored by a correlation, "
                    "which can be 0 or negative; alone it has no percentage."
                )
    return {where: said for where, said in notes.items() if said}


def chance_note(row: Row) -> str:
    """A note if softmax's score is not significantly better than one without learning; empty otherwise."""
    level = unlearned_level(row)
    if level is None:
        return ""
    score = format_with_error(row.value, row.stderr, row.unit)
    who = "softmax" if row.comparison.recipe == "scratch" else "the teacher, softmax,"
    return (
        f"{row.comparison.task}: {who} did not learn: {row.metric} {score}, {level.name} "
        f"{format_with_error(level.value, None)}; "
        "percentages of it have no meaning."
    )


def unlearned_level(row: Row) -> ChanceLevel | None:
    """The score without learning that the row's value is not significantly better than; None if there is none."""
    level = chance_level(row.metric, row.evidence.records)
    if level is None or row.value is None or row.higher_is_better is None:
        return None
    gain = (row.value - level.value) * (1 if row.higher_is_better else -1)
    return None if gain > errors_that_count(row.seeds.count(",") + 1) * (row.stderr or 0.0) else level


def apart_notes(groups: Sequence[SeedGroup]) -> dict[Conditions, list[str]]:
    """One sentence for each task whose cells differ in data, settings, device or version, and so are not averaged."""
    notes: dict[Conditions, list[str]] = defaultdict(list)
    by_comparison = grouped(groups, lambda cells: cells.comparison)
    for comparisons in grouped(by_comparison, lambda comparison: replace(comparison, data="")).values():
        if len(comparisons) > 1:
            notes[comparisons[0]].append(
                f"{comparisons[0].task} was measured on {len(comparisons)} different data: each has its own column, "
                "and numbers of different data are neither averaged nor compared."
            )
    for comparison, members in by_comparison.items():
        if note := _peers_note(comparison, members):
            notes[comparison].append(note)
        notes[comparison] += _variant_notes(members)
    return {comparison: said for comparison, said in notes.items() if said}


def _peers_note(comparison: Conditions, members: Sequence[SeedGroup]) -> str:
    """A note if cells of a task were measured under different settings, task versions, devices or dtypes."""
    keys = {record.peer_key: cells for cells in members for record in cells.records if record.peer_key}
    if len(keys) < 2:
        return ""
    changed = _changed([cells.records[0].settings for cells in keys.values()])
    return (
        f"{comparison.task} was measured under {len(keys)} different conditions "
        f"({changed or 'equal settings, so another task version, device, dtype or code'}): numbers of different "
        "conditions are neither averaged, ranked nor compared."
    )


def _variant_notes(members: Sequence[SeedGroup]) -> Iterator[str]:
    for several in grouped(members, lambda cells: cells.model).values():
        if len(several) > 1:
            names = ", ".join(cells.label for cells in several)
            changed = _changed([cells.records[0].settings for cells in several])
            reason = changed or "their settings are equal; another task version, device, code or run sets them apart"
            yield f"{several[0].comparison.task}: {names} are not averaged: {reason}."


def _changed(settings: Sequence[Mapping[str, Any]]) -> str:
    """The settings that differ, such as `train.lr 0.01 or 0.02`; empty if none does."""
    values = {
        name: dict.fromkeys("unset" if (value := each.get(name)) is None else str(value) for each in settings)
        for name in sorted(set().union(*settings))
    }
    changed = [f"{name} {' or '.join(spelled)}" for name, spelled in values.items() if len(spelled) > 1]
    more = f" and {len(changed) - _MOST_SETTINGS} more settings" if len(changed) > _MOST_SETTINGS else ""
    return ", ".join(changed[:_MOST_SETTINGS]) + more

"""Notes beside the tables: which numbers were kept apart and why, and what the linear branches of hybrids add."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .aggregate import SeedGroup
from .conversion import branch_notes
from .row import Conditions, grouped

_MOST_SETTINGS = 5


def section_notes(groups: Sequence[SeedGroup]) -> dict[Conditions, list[str]]:
    """Every note, by its comparison, from records that `group_seeds` has grouped."""
    apart, branches = apart_notes(groups), branch_notes(groups)
    return {where: apart.get(where, []) + branches.get(where, []) for where in {**apart, **branches}}


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
    """Says that cells of a task were not all measured alike: settings, task version, device or dtype differ."""
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

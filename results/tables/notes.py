"""What has to be said beside the tables: which numbers were kept apart and why, and what hybrids' branches do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .aggregate import Conditions, SeedGroup
from .conversion import branch_notes
from .tables import model_label

_MOST_SETTINGS = 5


def section_notes(groups: Sequence[SeedGroup]) -> dict[Conditions, list[str]]:
    """Every note, by the comparison that it is about, from records that `group_seeds` has grouped."""
    notes: dict[Conditions, list[str]] = defaultdict(list)
    for found in (apart_notes(groups), branch_notes(groups)):
        for comparison, said in found.items():
            notes[comparison] += said
    return notes


def apart_notes(groups: Sequence[SeedGroup]) -> dict[Conditions, list[str]]:
    """One sentence for each task whose cells differ in data, settings, device or version, and so are not averaged."""
    notes: dict[Conditions, list[str]] = defaultdict(list)
    by_data: dict[Conditions, dict[Conditions, None]] = defaultdict(dict)
    for cells in groups:
        by_data[replace(cells.comparison, data="")][cells.comparison] = None
    for where, comparisons in by_data.items():
        if len(comparisons) > 1:
            first = next(iter(comparisons))
            notes[first].append(
                f"{where.task} was measured on {len(comparisons)} different data: each has its own column, and numbers "
                "of different data are neither averaged nor compared."
            )
    for comparison, members in _by_comparison(groups).items():
        if note := _peers_note(comparison, members):
            notes[comparison].append(note)
        notes[comparison] += _variant_notes(members)
    return {comparison: said for comparison, said in notes.items() if said}


def _by_comparison(groups: Sequence[SeedGroup]) -> dict[Conditions, list[SeedGroup]]:
    found: dict[Conditions, list[SeedGroup]] = defaultdict(list)
    for cells in groups:
        found[cells.comparison].append(cells)
    return found


def _peers_note(comparison: Conditions, members: Sequence[SeedGroup]) -> str:
    """Says that cells of a task were not all measured alike: settings, task version, device or dtype differ."""
    keys = {record.peer_key: cells for cells in members for record in cells.records if record.peer_key}
    if len(keys) < 2:
        return ""
    changed = _changed([dict(cells.records[0].settings) for cells in keys.values()])
    return (
        f"{comparison.task} was measured under {len(keys)} different conditions "
        f"({changed or 'equal settings, so another task version, device, dtype or code'}): numbers of different "
        "conditions are neither averaged, ranked nor compared."
    )


def _variant_notes(members: Sequence[SeedGroup]) -> Iterator[str]:
    variants: dict[str, list[SeedGroup]] = defaultdict(list)
    for cells in members:
        variants[cells.model].append(cells)
    for model, several in variants.items():
        if len(several) > 1:
            names = ", ".join(model_label(model, cells.variant) for cells in several)
            changed = _changed([dict(cells.records[0].settings) for cells in several])
            reason = changed or "their settings are equal; another task version, device, code or run sets them apart"
            yield f"{several[0].comparison.task}: {names} are not averaged: {reason}."


def _changed(settings: Sequence[Mapping[str, Any]]) -> str:
    """The settings that differ, such as `train.lr 0.01 or 0.02`; empty where none does."""
    names = sorted({name for each in settings for name in each})
    told = [
        f"{name} {' or '.join(dict.fromkeys(_spelled(each.get(name)) for each in settings))}"
        for name in names
        if len({_spelled(each.get(name)) for each in settings}) > 1
    ]
    more = f" and {len(told) - _MOST_SETTINGS} more settings" if len(told) > _MOST_SETTINGS else ""
    return ", ".join(told[:_MOST_SETTINGS]) + more


def _spelled(value: Any) -> str:
    return "unset" if value is None else str(value)

"""Differences between the models of one task, besides the attention: settings, kernels, environment.

Numbers compare only if they were measured in the same way; the report shows every difference beside its tables.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from ..record import Record
from .aggregate import SeedGroup
from .row import Conditions, grouped


@dataclass(frozen=True)
class Confounders:
    """What differs between the models of a task.

    Attributes:
        comparison: The conditions of the comparison.
        models: Labels of the models.
        rows: The name of what differs, and its value for each model; a dash if a model has none.
    """

    comparison: Conditions
    models: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def confounders(groups: Iterable[SeedGroup]) -> list[Confounders]:
    """The differences on each task; tasks on which nothing differs are left out.

    Args:
        groups: The records, grouped by `group_seeds`.
    """
    found = []
    for comparison, members in grouped(groups, lambda cells: cells.comparison).items():
        rows = tuple((name, values) for name, values in _facts(members).items() if len(set(values)) > 1)
        if rows:
            found.append(Confounders(comparison, tuple(cells.label for cells in members), rows))
    return found


def _facts(members: Sequence[SeedGroup]) -> dict[str, tuple[str, ...]]:
    """Everything that differs between records of a task: its value for each model, or its values over seeds."""
    first = members[0].records[0]
    facts: dict[str, tuple[str, ...]] = {}
    for kind in (_kernels, attrgetter("settings"), attrgetter("environment")):
        shared = kind(first)
        each = [[values for record in cells.records if (values := kind(record)) != shared] for cells in members]
        names = dict.fromkeys(name for others in each for values in others for name in _changed(values, shared))
        for name in names:
            facts[name] = tuple(_told([kind(record).get(name) for record in cells.records]) for cells in members)
    return facts


def _changed(values: Mapping[str, Any], others: Mapping[str, Any]) -> list[str]:
    return [name for name in {**others, **values} if values.get(name) != others.get(name)]


def _told(values: Iterable[Any]) -> str:
    return " or ".join(dict.fromkeys("–" if value is None else str(value) for value in values))


def _kernels(record: Record) -> Mapping[str, Any]:
    used: dict[str, dict[str, None]] = defaultdict(dict)
    for use in record.kernels:
        used[f"kernel in {use.phase}"][f"{use.form} ({use.backend})"] = None
    return {phase: ", ".join(kernels) for phase, kernels in used.items()}

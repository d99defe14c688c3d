"""The paper's numbers for the claims, from `results/reference`: no number and no mark is written here.

A claim has the number that the paper itself states for it, and what the cells of its tables give for the same contrasts
of models that are measured here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from ...results.paper.beside import MEANS
from ...results.paper.claims import Reported
from ...results.reference.load import Reference
from ...results.reference.printed import Mark, ReferenceCell, ReferenceColumn, ReferenceTable
from .claims import Claim
from .studies import STUDIES

PRINTED_IN: Mapping[str, tuple[str, ...]] = {
    "recall": ("table-2", "table-3"),
    "cola": ("table-1", "table-2", "table-8"),
    "lra": ("table-6",),
    "language": ("table-7",),
    "glue": ("table-8",),
    "images": ("table-9",),
    "language-conversion": ("table-10",),
    "samsum": ("table-11",),
}
"""The paper's tables with the numbers of a study, the first that has a number first; other studies have none."""

_RELATIONS = {"equals": "", "at least": "at least", "up to": "up to"}


def reported(claim: Claim, reference: Reference) -> tuple[Reported, ...]:
    """The paper's numbers for a claim; empty if none is known."""
    stated: tuple[Reported, ...] = ()
    if claim.printed:
        found = reference.claim(claim.printed)
        unit = "points" if found.unit == "x100" else found.unit.removeprefix("1")
        stated = (Reported(found.value, found.value, unit, found.mark, _RELATIONS[found.relation]),)
    computed = _computed(claim, reference)
    return stated if computed is None or _says(stated, computed) else (*stated, computed)


def _says(stated: tuple[Reported, ...], computed: Reported) -> bool:
    """Whether a stated number says what the cells give."""
    return any((one.low, one.high, one.relation) == (computed.low, computed.high, "") for one in stated)


def _computed(claim: Claim, reference: Reference) -> Reported | None:
    """The lowest and the highest of a claim's contrasts whose models all have numbers in print; None if none has."""
    if claim.contrasts is None:
        return None
    tables = {name: [reference.table(id) for id in ids] for name, ids in PRINTED_IN.items()}
    printed = [column for table in tables.get(claim.study, ()) for column in _columns(claim, table)]
    if not printed:
        return None
    values: list[float] = []
    marks: set[Mark] = set()
    for contrast in claim.contrasts(bool(printed[0].higher_is_better)):
        cells = {name: _cells(claim, name, tables) for name in (*contrast.top, *contrast.bottom)}
        if all(cells.values()):
            values.append(contrast.of({name: _mean(own) for name, own in cells.items()}))
            marks |= {cell.mark for own in cells.values() for cell in own}
    if not values:
        return None
    is_ratio = any(contrast.bottom for contrast in claim.contrasts(True))
    decimals = 1 if is_ratio else printed[0].decimals
    unit = "%" if is_ratio else "points" if printed[0].unit in ("x100", "%") else printed[0].unit.removeprefix("1")
    mark: Mark = "unverified" if "unverified" in marks else "derived"
    return Reported(round(min(values), decimals), round(max(values), decimals), unit, mark)


def _columns(claim: Claim, table: ReferenceTable) -> Iterator[ReferenceColumn]:
    """The columns of a table that a claim is about: that of its metric, or those of its study's tasks."""
    names = {column.name: column for column in table.columns}
    wanted = (claim.metric,) if claim.metric in names else STUDIES[claim.study].columns
    yield from (names[name] for name in wanted if name in names)


def _cells(claim: Claim, name: str, tables: Mapping[str, Sequence[ReferenceTable]]) -> list[ReferenceCell]:
    """A model's numbers on the claim's tasks, or their mean, from the first table that has them; empty if none has."""
    model, _, other = name.partition("@")
    for table in tables.get(other or claim.study, ()):
        for row in table.measured:
            if row.model != model or row.recipe is not None:
                continue
            tasks = [table.cell(row.label, column.name) for column in _columns(claim, table)]
            if tasks and all(cell.value is not None for cell in tasks):
                return tasks
            for mean in (table.cell(row.label, c.name) for c in table.columns if c.name in MEANS):
                if mean.value is not None:
                    return [mean]
    return []


def _mean(cells: Sequence[ReferenceCell]) -> float:
    return math.fsum(cell.value or 0.0 for cell in cells) / len(cells)

"""Numbers printed in papers, as data, each with how sure it is.

The marks: `paper`, read in the paper, another published paper or public code; `transcribed`, read in a published
transcription; `derived`, arithmetic on those; `unverified`, remembered and found nowhere. No check rests on the last.
"""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ..names import unknown_name

Mark: TypeAlias = Literal["paper", "transcribed", "derived", "unverified"]

MARKS: tuple[Mark, ...] = typing.get_args(Mark)

_FOLDER = Path(__file__).parents[1] / "reference"


class InvalidReferenceError(ValueError):
    """A reference file lacks a field, or has an unknown mark or something that is not a number."""


@dataclass(frozen=True)
class ReferenceRow:
    """One model's numbers in a printed table.

    Attributes:
        model: Canonical model spec where the harness has the mechanism; the printed name otherwise.
        label: The printed name.
        values: Numbers by task or metric, in the table's unit.
        mark: How sure the numbers are.
        marks: Marks of single numbers that differ from `mark`.
        placement: How sure it is that the row stands in this table; equals `mark` unless noted.
        note: What else is known.
    """

    model: str
    label: str
    values: Mapping[str, float]
    mark: Mark
    placement: Mark
    marks: Mapping[str, Mark] = field(default_factory=dict)
    note: str = ""

    def mark_of(self, column: str) -> Mark:
        """How sure one number is."""
        return self.marks.get(column, self.mark)


@dataclass(frozen=True)
class ReferenceTable:
    """A printed table.

    Attributes:
        id: Such as `table-8`.
        title: What it shows.
        metric: What its numbers measure.
        unit: Their unit; `x100` for a score printed as a percentage.
        higher_is_better: Direction of improvement.
        rows: Its rows, in printed order.
        note: What a reader must know.
    """

    id: str
    title: str
    metric: str
    unit: str
    higher_is_better: bool
    rows: tuple[ReferenceRow, ...]
    note: str = ""

    def row(self, label: str) -> ReferenceRow:
        """The row with a printed name.

        Raises:
            UnknownNameError: There is no such row.
        """
        for row in self.rows:
            if row.label == label:
                return row
        raise unknown_name(f"row of {self.id}", label, (row.label for row in self.rows))


@dataclass(frozen=True)
class Reference:
    """A paper's tables."""

    paper: str
    title: str
    tables: tuple[ReferenceTable, ...]

    def table(self, id: str) -> ReferenceTable:
        """The table with an id such as `table-8`.

        Raises:
            UnknownNameError: There is no such table.
        """
        for table in self.tables:
            if table.id == id:
                return table
        raise unknown_name("table", id, (table.id for table in self.tables))


def load_reference(name: str = "hedgehog") -> Reference:
    """The numbers in `reference/NAME.json`.

    Raises:
        UnknownNameError: There is no such reference.
        InvalidReferenceError: The file does not have the expected fields.
    """
    path = _FOLDER / f"{name}.json"
    known = sorted(file.stem for file in _FOLDER.glob("*.json"))
    if name not in known:
        raise unknown_name("reference", name, known)
    return parse_reference(json.loads(path.read_text(encoding="utf-8")))


def parse_reference(data: Mapping[str, Any]) -> Reference:
    """A reference from its JSON.

    Raises:
        InvalidReferenceError: The data does not have the expected fields.
    """
    try:
        return Reference(data["paper"], data["title"], tuple(map(_table, data["tables"])))
    except KeyError as error:
        raise InvalidReferenceError(f"a reference lacks the field {error}") from error


def _table(data: Mapping[str, Any]) -> ReferenceTable:
    return ReferenceTable(
        id=data["id"],
        title=data["title"],
        metric=data["metric"],
        unit=data["unit"],
        higher_is_better=data["higher_is_better"],
        rows=tuple(map(_row, data["rows"])),
        note=data.get("note", ""),
    )


def _row(data: Mapping[str, Any]) -> ReferenceRow:
    label, mark = data["label"], _mark(data["mark"], data["label"])
    marks: dict[str, Mark] = {column: _mark(one, label) for column, one in data.get("marks", {}).items()}
    if stray := sorted(set(marks) - set(data["values"])):
        raise InvalidReferenceError(f"{label} marks {', '.join(stray)} but has no such value")
    return ReferenceRow(
        model=data["model"],
        label=label,
        values={column: _number(value, f"{label}, {column}") for column, value in data["values"].items()},
        mark=mark,
        placement=_mark(data.get("placement", mark), label),
        marks=marks,
        note=data.get("note", ""),
    )


def _mark(value: Any, where: str) -> Mark:
    for mark in MARKS:
        if value == mark:
            return mark
    raise InvalidReferenceError(f"{where} has the mark {value!r}; choose {', '.join(MARKS)}")


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidReferenceError(f"{where} is {value!r}; expected a finite number")
    return float(value)

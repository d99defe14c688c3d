"""The numbers of papers that `results/reference/` holds, each with how sure it is, for tests to check against.

The marks: `paper`, read in the paper, another published paper or public code; `transcribed`, read in a published
transcription; `derived`, arithmetic on those; `unverified`, remembered and found nowhere. No check rests on the last.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from .foreign import ForeignJsonError, convert
from .names import unknown_name

Mark: TypeAlias = Literal["paper", "transcribed", "derived", "unverified"]

FOLDER = Path(__file__).parent / "reference"


class InvalidReferenceError(ValueError):
    """A reference file lacks a field, has an unknown one, an unknown mark or a value that is not a finite number."""


@dataclass(frozen=True)
class ReferenceRow:
    """One model's numbers in a printed table.

    Attributes:
        model: Canonical model spec where the harness has the mechanism; the printed name otherwise.
        label: The printed name.
        values: Numbers by task or metric, in the table's unit.
        mark: How sure the numbers are.
        marks: Marks of single numbers that differ from `mark`.
        placement: How sure it is that the row stands in this table; None: as sure as its numbers.
        note: What else is known.
    """

    model: str
    label: str
    values: Mapping[str, float]
    mark: Mark
    placement: Mark | None = None
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
        rows = {row.label: row for row in self.rows}
        if label not in rows:
            raise unknown_name(f"row of {self.id}", label, rows)
        return rows[label]


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
        tables = {table.id: table for table in self.tables}
        if id not in tables:
            raise unknown_name("table", id, tables)
        return tables[id]


def load_reference(name: str = "hedgehog") -> Reference:
    """The numbers in `reference/NAME.json`.

    Raises:
        UnknownNameError: There is no such reference.
        InvalidReferenceError: The file does not have the expected fields.
    """
    paths = {path.stem: path for path in FOLDER.glob("*.json")}
    if name not in paths:
        raise unknown_name("reference", name, paths)
    return parse_reference(json.loads(paths[name].read_text(encoding="utf-8")))


def parse_reference(data: Mapping[str, Any]) -> Reference:
    """A reference from its JSON.

    Raises:
        InvalidReferenceError: The data does not have the expected fields.
    """
    try:
        reference = convert(data, Reference, "reference")
    except ForeignJsonError as error:
        raise InvalidReferenceError(str(error)) from error
    for row in (row for table in reference.tables for row in table.rows):
        if stray := sorted(set(row.marks) - set(row.values)):
            raise InvalidReferenceError(f"{row.label} marks {', '.join(stray)} but has no such value")
        for column, value in row.values.items():
            if not math.isfinite(value):
                raise InvalidReferenceError(f"{row.label}, {column} is {value!r}; expected a finite number")
    return reference

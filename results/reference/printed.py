"""What a paper prints: tables of numbers, figures and claims, each with how sure it is and where it was read.

The marks: `paper`, read in the paper, another published paper or public code; `transcribed`, read in a published
transcription; `derived`, arithmetic on those; `unverified`, remembered and found nowhere. No check rests on the last,
and none is shown without its mark. A number that is not known is None, and is shown as `not known`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, TypeVar

from ..names import unknown_name

_T = TypeVar("_T")

Mark: TypeAlias = Literal["paper", "transcribed", "derived", "unverified"]

MARKS: Mapping[Mark, str] = {"paper": "P", "transcribed": "T", "derived": "D", "unverified": "U"}
"""Letters behind the paper's numbers."""

MARKS_LEGEND = (
    "P: read in the paper, another published paper or public code; T: read in a published transcription; D: arithmetic "
    "on such numbers; U: remembered and found nowhere."
)

NOT_KNOWN = "not known"


@dataclass(frozen=True)
class ReferenceColumn:
    """What the numbers of a column measure.

    Attributes:
        name: Unique in its table.
        label: The printed name.
        task: Name of the harness's task or group of tasks; empty for one that the harness does not have.
        metric: Name of the metric.
        unit: `x100` for a score that is printed as a percentage, `%`, `nats`, or `1` for a pure number.
        higher_is_better: Direction of improvement; None for a number that only describes.
        decimals: Decimals in print.
        metric_mark: How sure it is that this is the metric.
    """

    name: str
    label: str
    task: str
    metric: str
    unit: str
    higher_is_better: bool | None
    decimals: int
    metric_mark: Mark = "transcribed"


@dataclass(frozen=True)
class ReferenceRow:
    """One model's numbers in a printed table.

    Attributes:
        label: The printed name.
        values: Numbers by column; a column that is not there is not known.
        mark: How sure the numbers are.
        source: Where they were read, a key of the reference's sources.
        model: Canonical spec of a model that the harness measures; None for a row that is only reported.
        work: The published work of a row that is only reported; empty for the others.
        recipe: Recipe of the row if it is not that of its table.
        marks: Marks of single numbers that differ from `mark`.
        sources: Sources of single numbers that differ from `source`.
        placement: How sure it is that the row stands in this table; None: as sure as its numbers.
        note: What else is known.
    """

    label: str
    values: Mapping[str, float]
    mark: Mark
    source: str
    model: str | None = None
    work: str = ""
    recipe: str | None = None
    marks: Mapping[str, Mark] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    placement: Mark | None = None
    note: str = ""


@dataclass(frozen=True)
class ReferenceCell:
    """One number of a printed table.

    Attributes:
        row: Its row.
        column: Its column.
        value: The number in the column's unit; None if it is not known.
        mark: How sure it is.
        source: Where it was read, a key of the reference's sources.
    """

    row: ReferenceRow
    column: ReferenceColumn
    value: float | None
    mark: Mark
    source: str

    @property
    def is_sure(self) -> bool:
        """Whether the number is known and not unverified, so that a check may rest on it."""
        return self.value is not None and self.mark != "unverified"

    @property
    def text(self) -> str:
        """The number as printed, with its mark if it was not read anywhere."""
        if self.value is None:
            return NOT_KNOWN
        was_read = self.mark in ("paper", "transcribed")
        return f"{self.value:.{self.column.decimals}f}" + ("" if was_read else f" ({self.mark})")


@dataclass(frozen=True)
class StatedValue:
    """One of several values that are stated for a cell."""

    value: float
    mark: Mark
    source: str


@dataclass(frozen=True)
class Contradiction:
    """Values of one cell that disagree.

    Attributes:
        row: Label of the row.
        column: Name of the column.
        stated: The values.
        note: What is known about it.
    """

    row: str
    column: str
    stated: tuple[StatedValue, ...]
    note: str


@dataclass(frozen=True)
class ReferenceTable:
    """A printed table.

    Attributes:
        id: Such as `table-8`; another name for a table of another paper, all of whose rows are only reported.
        title: What it shows.
        placement: How sure it is that the table has this number and this content.
        columns: In printed order.
        rows: Rows that the harness measures and rows that are only reported.
        contradictions: Cells whose values in print disagree.
        note: What a reader must know.
    """

    id: str
    title: str
    placement: Mark
    columns: tuple[ReferenceColumn, ...]
    rows: tuple[ReferenceRow, ...]
    contradictions: tuple[Contradiction, ...] = ()
    note: str = ""

    @property
    def measured(self) -> tuple[ReferenceRow, ...]:
        """The rows whose models the harness measures."""
        return tuple(row for row in self.rows if row.model is not None)

    @property
    def reported(self) -> tuple[ReferenceRow, ...]:
        """The rows that are only reported."""
        return tuple(row for row in self.rows if row.model is None)

    def row(self, label: str) -> ReferenceRow:
        """The row with a printed name.

        Raises:
            UnknownNameError: There is no such row.
        """
        return named(f"row of {self.id}", label, {row.label: row for row in self.rows})

    def column(self, name: str) -> ReferenceColumn:
        """The column of a name.

        Raises:
            UnknownNameError: There is no such column.
        """
        return named(f"column of {self.id}", name, {column.name: column for column in self.columns})

    def cell(self, row: str, column: str) -> ReferenceCell:
        """The number of a row, by its label, in a column, by its name.

        Raises:
            UnknownNameError: There is no such row or column.
        """
        own, where = self.row(row), self.column(column)
        mark, source = own.marks.get(column, own.mark), own.sources.get(column, own.source)
        return ReferenceCell(own, where, own.values.get(column), mark, source)


@dataclass(frozen=True)
class ReferenceFigure:
    """A printed figure; no value of any is known.

    Attributes:
        number: Its number.
        shows: What it shows.
        mark: How sure that is.
        values: Always `not known`.
        note: What else is known.
    """

    number: int
    shows: str
    mark: Mark
    values: Literal["not known"]
    note: str = ""


@dataclass(frozen=True)
class PrintedClaim:
    """A claim with a number.

    Attributes:
        id: Its name.
        text: What is claimed.
        value: The number.
        unit: As of a column.
        relation: Whether the claim states the statistic, a lower bound of it, or the largest of several.
        mark: How sure it is that this is claimed.
        source: Where it was read, a key of the reference's sources.
        statistic: How much better the first row is than the second, its score in percent of the second's (a ratio of
            sums over columns), or how much of the gap from the second to the third it closes, in percent.
        table: Id of the table it is computed from.
        columns: Names of the columns, over which scores are averaged.
        rows: Labels of the rows that the statistic takes.
        note: What a reader must know.
    """

    id: str
    text: str
    value: float
    unit: str
    relation: Literal["equals", "at least", "up to"]
    mark: Mark
    source: str
    statistic: Literal["difference", "recovered", "gap_closed"]
    table: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    note: str = ""


def named(what: str, name: str, known: Mapping[str, _T]) -> _T:
    """The one of a name.

    Raises:
        UnknownNameError: There is none.
    """
    if name not in known:
        raise unknown_name(what, name, known)
    return known[name]

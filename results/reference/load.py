"""Reading of the numbers that papers print, from the JSON files in this folder."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..foreign import ForeignJsonError, convert, parse_json
from ..names import unknown_name
from ..stats.contrasts import Contrast, difference, gap_closed, recovered
from .printed import PrintedClaim, ReferenceCell, ReferenceFigure, ReferenceTable, named

FOLDER = Path(__file__).parent

_STATISTICS: Mapping[str, tuple[int, Callable[..., Contrast]]] = {
    "difference": (2, difference),
    "recovered": (2, recovered),
    "gap_closed": (3, gap_closed),
}
"""How many rows a statistic takes, and its contrast."""


class InvalidReferenceError(ValueError):
    """A reference file lacks a field or has one twice, an unknown name or mark, or a value that is not finite."""


@dataclass(frozen=True)
class Reference:
    """A paper's tables, figures and claims.

    Attributes:
        paper: Such as `arXiv:2402.04347`.
        title: Its title.
        version: Which version was read.
        sources: Where numbers were read, in words, by the keys that rows and claims name.
        tables: Its tables, and tables of other papers beside them.
        figures: Its figures.
        claims: Its claims with numbers.
    """

    paper: str
    title: str
    version: str
    sources: Mapping[str, str]
    tables: tuple[ReferenceTable, ...]
    figures: tuple[ReferenceFigure, ...]
    claims: tuple[PrintedClaim, ...]

    def table(self, id: int | str) -> ReferenceTable:
        """The table with a number, or with an id such as `table-8`.

        Raises:
            UnknownNameError: There is no such table.
        """
        wanted = f"table-{id}" if isinstance(id, int) else id
        return named("table", wanted, {table.id: table for table in self.tables})

    def figure(self, number: int) -> ReferenceFigure:
        """The figure with a number.

        Raises:
            UnknownNameError: There is no such figure.
        """
        return named("figure", str(number), {str(figure.number): figure for figure in self.figures})

    def claim(self, id: str) -> PrintedClaim:
        """The claim with an id.

        Raises:
            UnknownNameError: There is no such claim.
        """
        return named("claim", id, {claim.id: claim for claim in self.claims})

    def cell(self, table: int | str, row: str, column: str) -> ReferenceCell:
        """One number.

        Raises:
            UnknownNameError: There is no such table, row or column.
        """
        return self.table(table).cell(row, column)

    def recomputed(self, claim: PrintedClaim) -> float | None:
        """A claim's statistic from the table's cells; None if one of them is unverified or not known."""
        cells = {row: [self.cell(claim.table, row, column) for column in claim.columns] for row in claim.rows}
        if not all(cell.is_sure for own in cells.values() for cell in own):
            return None
        means = {row: math.fsum(cell.value or 0.0 for cell in own) / len(own) for row, own in cells.items()}
        contrast = _STATISTICS[claim.statistic][1]
        return contrast(*claim.rows, self.table(claim.table).column(claim.columns[0]).higher_is_better).of(means)


def load_reference(name: str = "hedgehog") -> Reference:
    """The numbers in `reference/NAME.json`.

    Raises:
        UnknownNameError: There is no such reference.
        InvalidReferenceError: The file does not have the expected content.
    """
    path = named("reference", name, {path.stem: path for path in FOLDER.glob("*.json")})
    return parse_reference(path.read_bytes())


def parse_reference(text: bytes | str) -> Reference:
    """A reference from its JSON text.

    Raises:
        InvalidReferenceError: The text does not have the expected content; the message names the first problem.
    """
    try:
        reference = convert(parse_json(text), Reference, "reference")
    except ForeignJsonError as error:
        raise InvalidReferenceError(str(error)) from error
    for problem in _problems(reference):
        raise InvalidReferenceError(problem)
    return reference


def _problems(reference: Reference) -> Iterator[str]:
    yield from _twice("table", (table.id for table in reference.tables))
    yield from _twice("figure", (str(figure.number) for figure in reference.figures))
    yield from _twice("claim", (claim.id for claim in reference.claims))
    for table in reference.tables:
        yield from _table_problems(table)
        stated = [one.source for each in table.contradictions for one in each.stated]
        for source in (*stated, *(source for row in table.rows for source in (row.source, *row.sources.values()))):
            yield from _unknown(f"source in {table.id}", source, reference.sources)
    for claim in reference.claims:
        yield from _claim_problems(claim, reference)


def _table_problems(table: ReferenceTable) -> Iterator[str]:
    columns = [column.name for column in table.columns]
    labels = [row.label for row in table.rows]
    yield from _twice(f"column of {table.id}", columns)
    yield from _twice(f"row of {table.id}", labels)
    for name in (column.name for column in table.columns if not column.unit):
        yield f"column {name} of {table.id} has no unit; give 1 for a pure number"
    for row in table.rows:
        if (row.model is None) == (not row.work):
            yield f"{row.label} in {table.id} has model {row.model!r} and work {row.work!r}; give one of the two"
        for name in (*row.values, *row.marks, *row.sources):
            yield from _unknown(f"column of {row.label} in {table.id}", name, columns)
        for name in (*row.marks, *row.sources):
            yield from _unknown(f"value of {row.label} in {table.id} with a mark or source", name, row.values)
        for name, value in row.values.items():
            if not math.isfinite(value):
                yield f"{row.label}, {name} is {value!r}; expected a finite number"
    for each in table.contradictions:
        yield from _unknown(f"row of a contradiction in {table.id}", each.row, labels)
        yield from _unknown(f"column of a contradiction in {table.id}", each.column, columns)


def _claim_problems(claim: PrintedClaim, reference: Reference) -> Iterator[str]:
    yield from _unknown(f"source of {claim.id}", claim.source, reference.sources)
    tables = {table.id: table for table in reference.tables}
    if claim.table not in tables:
        yield from _unknown(f"table of {claim.id}", claim.table, tables)
        return
    table = tables[claim.table]
    for row in claim.rows:
        yield from _unknown(f"row of {claim.id}", row, [row.label for row in table.rows])
    for column in claim.columns:
        yield from _unknown(f"column of {claim.id}", column, [column.name for column in table.columns])
    wanted = _STATISTICS[claim.statistic][0]
    if len(claim.rows) != wanted or not claim.columns:
        yield (
            f"{claim.id} has {len(claim.rows)} rows and {len(claim.columns)} columns; "
            f"{claim.statistic} takes {wanted} rows and at least one column"
        )


def _twice(what: str, names: Iterable[str]) -> Iterator[str]:
    yield from (f"{what} {name!r} is there {count} times" for name, count in Counter(names).items() if count > 1)


def _unknown(what: str, name: str, allowed: Collection[str]) -> Iterator[str]:
    if name not in allowed:
        yield str(unknown_name(what, name, allowed))

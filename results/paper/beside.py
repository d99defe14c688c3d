"""A printed table beside what was measured for it: two lines for each method, `paper` and `here`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..reference.printed import MARKS, ReferenceCell, ReferenceRow, ReferenceTable
from ..stats.statistics import seed_mean
from ..tables.format import format_arrow, format_measurement
from ..tables.row import REFERENCE_MODEL, Row
from ..tables.tables import MISSING, Column, Entry, Table, column_entries

RECOVERED, MEANS = "percent_recovered", ("average", "mean")
"""Columns of printed tables that sum up the others: the ratio of sums to softmax's in percent, and mean scores."""

PERCENT_UNITS = ("x100", "%")
"""Units of printed columns in which scores between 0 and 1 stand as percent."""


@dataclass(frozen=True)
class MeasuredColumn:
    """What was measured for one column of a table.

    Attributes:
        name: The column's name in the printed table.
        label: The task that was measured, with its metric.
        rows: A row for each model, and those of failures.
        gap: Why nothing was measured; empty if something was.
    """

    name: str
    label: str
    rows: tuple[Row, ...] = ()
    gap: str = ""

    def of(self, model: str) -> Row | None:
        """The row of a model that has a value."""
        return next((row for row in self.rows if row.model == model and row.value is not None), None)


def beside_table(
    title: str,
    printed: ReferenceTable | None,
    columns: Sequence[MeasuredColumn],
    models: Sequence[str],
    recipe: str | None = None,
) -> Table:
    """The table.

    Args:
        title: Its title.
        printed: The paper's table; None if none of its numbers is known.
        columns: What was measured.
        models: Model specs in the order of the table; printed rows that no model of ours stands for follow.
        recipe: The recipe of what was measured, where the printed table has rows of another.
    """
    units = {column.name: column.unit for column in printed.columns} if printed else {}
    summaries = [name for name in units if name == RECOVERED or name in MEANS]
    factors = {column.name: 100.0 if units.get(column.name) in PERCENT_UNITS else 1.0 for column in columns}
    entries = {
        column.name: dict(zip(models, _entries(column, models, factors[column.name]), strict=True))
        for column in columns
    }
    for name in summaries:
        entries[name] = {model: _summary(name, columns, model) for model in models}
    rows = {row.model: row for row in printed.measured if row.recipe in (None, recipe)} if printed else {}
    lines: list[tuple[str, tuple[Entry, ...]]] = []
    for model in models:
        if printed and model in rows:
            lines.append(_printed(printed, rows[model], list(entries)))
        lines.append((f"{model}: here", tuple(entries[name][model] for name in entries)))
    others = [row for row in printed.rows if row.model not in models or row not in rows.values()] if printed else []
    lines += [_printed(printed, row, list(entries)) for row in others if printed]
    headings = [Column(column.name, column.label + _metric_mark(printed, column.name)) for column in columns]
    return Table(title, (*headings, *(Column(name.replace("_", " ")) for name in summaries)), tuple(lines))


def _printed(table: ReferenceTable, row: ReferenceRow, names: Sequence[str]) -> tuple[str, tuple[Entry, ...]]:
    """A line of the paper's numbers; a column of ours that the table does not print has none."""
    known = {column.name for column in table.columns}
    cells = (table.cell(row.label, name) if name in known else None for name in names)
    place = "" if row.placement in (None, row.mark) else f" (row {MARKS[row.placement]})"
    return f"{row.label}: paper{place}", tuple(map(_printed_entry, cells))


def _metric_mark(printed: ReferenceTable | None, name: str) -> str:
    """What a heading says of a column whose metric is less sure than its numbers."""
    mark = next((column.metric_mark for column in printed.columns if column.name == name), None) if printed else None
    return f"; the paper's metric: {MARKS[mark]}" if mark == "unverified" else ""


def _printed_entry(cell: ReferenceCell | None) -> Entry:
    if cell is None or cell.value is None:
        return MISSING if cell is None else Entry("not known", pale=True)
    return Entry(f"{cell.value:.{cell.column.decimals}f}", note=MARKS[cell.mark], order=cell.value)


def _entries(column: MeasuredColumn, models: Sequence[str], factor: float) -> list[Entry]:
    if column.gap:
        return [Entry("not measured", pale=True)] * len(models)
    return column_entries([_times(row, factor) for row in column.rows], [(model, 0) for model in models])


def _times(row: Row, factor: float) -> Row:
    """A score between 0 and 1 in the unit of a table that prints percent; other numbers as they are."""
    if row.unit != "1" or factor == 1 or row.value is None:
        return row
    return replace(row, value=factor * row.value, stderr=None if row.stderr is None else factor * row.stderr)


def _summary(name: str, columns: Sequence[MeasuredColumn], model: str) -> Entry:
    """A model's mean, or its share of softmax's sum, in percent over the columns and seeds that both have.

    The error is over seeds, that of a share to first order.
    """
    pairs = [(row, other) for c in columns if (row := c.of(model)) and (other := c.of(REFERENCE_MODEL))]
    by_seed = [(row.evidence.values, other.evidence.values) for row, other in pairs]
    seeds = sorted(set.intersection(*(set(values) for pair in by_seed for values in pair))) if pairs else []
    own, reference = (np.array([[pair[side][seed] for pair in by_seed] for seed in seeds]) for side in (0, 1))
    if not seeds or not (reference.sum(1) > 0).all():
        return MISSING
    mean, stderr = seed_mean((100 * own.mean(1)).tolist())
    if name == RECOVERED:
        mean = 100 * own.sum() / reference.sum()
        _, stderr = seed_mean(((100 * own.sum(1) - mean * reference.sum(1)) / reference.sum(1).mean()).tolist())
    counted = "" if len(pairs) == len(columns) else f"{len(pairs)} of {len(columns)}"
    return Entry(*format_measurement(mean, stderr), note=counted, order=mean)


def column_label(row: Row) -> str:
    """Task, metric and its direction, for a column's heading."""
    return f"{row.comparison.task}: {row.metric}{format_arrow(row.higher_is_better)}"

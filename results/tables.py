"""The tables people read: models × tasks for the main metrics, models × points for each sweep.

This module decides what stands in which cell; Markdown, HTML and the terminal only draw it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from .aggregate import PARTIAL, REFERENCE_MODEL, Comparison, Row, main_rows
from .format import format_arrow, format_measurement, format_percent, format_status
from .groups import GroupScore, group_scores_of

AXIS = "seq_len"
"""The coordinate that becomes a sweep's columns, where the sweep has it."""

_Place: TypeAlias = tuple[str, str, str, int | None]
_ModelKey: TypeAlias = tuple[str, int]


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: The value, why there is none, or a dash.
        stderr: Standard error, formatted like the value; empty where there is none.
        percent: Percent of softmax's score; empty for softmax itself and where not defined.
        note: What a reader must know, such as seeds that failed.
        best: Whether no other model of the column is better.
        failed: Whether the cell stands for a failure.
    """

    text: str
    stderr: str = ""
    percent: str = ""
    note: str = ""
    best: bool = False
    failed: bool = False


MISSING = Cell("–")


@dataclass(frozen=True)
class Column:
    """A column's heading: what was measured, and in which metric and direction."""

    label: str
    detail: str = ""


@dataclass(frozen=True)
class Table:
    """A table; `rows` pairs a model's label with one cell per column."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    is_sweep: bool = False


@dataclass(frozen=True)
class Section:
    """The tables of one backbone, recipe and scale, whose numbers may be compared."""

    title: str
    tables: tuple[Table, ...]


def sections(rows: Sequence[Row]) -> list[Section]:
    """The tables of a leaderboard's rows; numbers of another backbone, recipe, scale or limit never share one."""
    places: dict[_Place, list[Row]] = defaultdict(list)
    for row in rows:
        places[_place(row.comparison)].append(row)
    scores: dict[_Place, list[GroupScore]] = defaultdict(list)
    for score in group_scores_of(rows):
        scores[_place(score.comparison)].append(score)
    return [Section(_place_title(place), _tables(members, scores[place])) for place, members in places.items()]


def model_label(model: str, variant: int) -> str:
    """A model's name in tables and legends; the second and later sets of settings are numbered."""
    return model if variant == 0 else f"{model} (settings {variant + 1})"


def _tables(rows: Sequence[Row], scores: Sequence[GroupScore]) -> tuple[Table, ...]:
    main = main_rows(rows)
    tables = [_main_table(main, scores)] if main else []
    sweeps: dict[tuple[Comparison, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.at and not (row.is_main and row.comparison in main):
            sweeps[row.comparison, row.metric, _rest_of_point(row)].append(row)
    failures = [row for row in rows if row.is_failed_cell and row.comparison not in main]
    tables += [
        _sweep_table(rest, members, [row for row in failures if row.comparison == comparison])
        for (comparison, _, rest), members in sweeps.items()
    ]
    return tuple(tables)


def _main_table(columns: Mapping[Comparison, Sequence[Row]], scores: Sequence[GroupScore]) -> Table:
    models = _models(row for rows in columns.values() for row in rows)
    filled = [_column(members, models) for members in columns.values()]
    headings = [_task_column(comparison, members, columns) for comparison, members in columns.items()]
    for group in dict.fromkeys(score.comparison for score in scores):
        members_of_group = {(s.model, s.variant): s for s in scores if s.comparison == group}
        headings.append(Column(group.task, "% of softmax ↑"))
        filled.append([_group_cell(members_of_group.get(model)) for model in models])
    return Table("Main metrics", tuple(headings), _transpose(models, filled))


def _sweep_table(rest: str, rows: Sequence[Row], failures: Sequence[Row]) -> Table:
    axis = _axis(rows[0])
    points = sorted({row.coordinates[axis] for row in rows}, key=lambda point: (isinstance(point, str), point))
    models = _models([*rows, *failures])
    filled = [_column([row for row in rows if row.coordinates[axis] == point], models, failures) for point in points]
    example = next((row for row in rows if row.value is not None), rows[0])
    title = f"{rows[0].comparison.task}: {metric_label(example)}" + (f", {rest}" if rest else "")
    columns = tuple(Column(f"{axis}={point}" if i == 0 else str(point)) for i, point in enumerate(points))
    return Table(title, columns, _transpose(models, filled), is_sweep=True)


def _column(rows: Sequence[Row], models: Sequence[_ModelKey], failures: Sequence[Row] = ()) -> list[Cell]:
    """One cell for each model; a failure of the whole cell fills what its model lacks."""
    found: dict[_ModelKey, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.model, row.variant].append(row)
    best = _best_value(rows)
    cells = []
    for model in models:
        own = found.get(model) or [row for row in failures if (row.model, row.variant) == model]
        cells.append(_cell(own, best) if own else MISSING)
    return cells


def _cell(rows: Sequence[Row], best: float | None) -> Cell:
    """The cell of one model's rows: at most one with a value, and one for each way in which seeds failed."""
    measured = next((row for row in rows if row.value is not None), None)
    if measured is None:
        return Cell(", ".join(format_status(row.status) for row in rows), failed=True)
    text, stderr = format_measurement(measured.value, measured.stderr, measured.unit)
    failed = [f"seed {row.seeds}: {format_status(row.status)}" for row in rows if row.value is None]
    percent = "" if measured.model == REFERENCE_MODEL else format_percent(measured.percent_recovered)
    return Cell(text, stderr, percent, "; ".join(failed), best=measured.value == best)


def _group_cell(score: GroupScore | None) -> Cell:
    if score is None:
        return MISSING
    if score.percent_recovered is None:
        return Cell(f"{score.done} of {score.total}")
    return Cell(f"{score.percent_recovered:.1f}")


def _best_value(rows: Sequence[Row]) -> float | None:
    """The best value of a column; None where fewer than two models have one."""
    ranked = [row for row in rows if row.higher_is_better is not None and row.value is not None]
    values = [row.value for row in ranked if row.value is not None and row.value == row.value]
    if len(values) < 2:
        return None
    return max(values) if ranked[0].higher_is_better else min(values)


def _task_column(comparison: Comparison, rows: Sequence[Row], columns: Iterable[Comparison]) -> Column:
    example = next((row for row in rows if row.value is not None), rows[0])
    twins = sum(other.task == comparison.task for other in columns)
    point = f", {example.at.replace(';', ', ')}" if example.at else ""
    data = f" on {comparison.data or '?'}" if twins > 1 else ""
    return Column(comparison.task, metric_label(example) + point + data)


def metric_label(row: Row) -> str:
    """A metric's name, its unit where the name does not end with it, and the direction of improvement."""
    is_named = row.unit in ("", "1") or f"_{row.metric}".endswith(f"_{row.unit.replace('/', '_per_')}")
    return f"{row.metric}{'' if is_named else f' [{row.unit}]'}{format_arrow(row.higher_is_better)}"


def _models(rows: Iterable[Row]) -> list[_ModelKey]:
    """Softmax first, then by name: the order of the leaderboard's rows, over all tasks."""
    return sorted({(row.model, row.variant) for row in rows}, key=lambda key: (key[0] != REFERENCE_MODEL, key))


def _transpose(
    models: Sequence[_ModelKey], columns: Sequence[Sequence[Cell]]
) -> tuple[tuple[str, tuple[Cell, ...]], ...]:
    return tuple((model_label(*model), tuple(column[i] for column in columns)) for i, model in enumerate(models))


def _axis(row: Row) -> str:
    return AXIS if AXIS in row.coordinates else min(row.coordinates)


def _rest_of_point(row: Row) -> str:
    axis = _axis(row)
    return ", ".join(f"{key}={row.coordinates[key]}" for key in sorted(row.coordinates) if key != axis)


def _place(comparison: Comparison) -> _Place:
    return comparison.backbone, comparison.recipe, comparison.scale, comparison.limit


def _place_title(place: _Place) -> str:
    backbone, recipe, scale, limit = place
    title = f"{backbone} · {recipe} · {scale}"
    return title if limit is None else f"{title} · {PARTIAL}: first {limit} rows"

"""The tables people read: models × tasks for the main metrics, models × points for each sweep.

This module decides what stands in which cell; Markdown, HTML and the terminal only draw it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from .aggregate import PARTIAL, REFERENCE_MODEL, Conditions, Row, main_rows
from .efficiency import Summary, is_detail, summaries
from .format import format_arrow, format_measurement, format_percent, format_status
from .groups import GroupScore, group_scores_of
from .ranks import Ranking, Standing, rankings

AXIS = "seq_len"
"""The coordinate that becomes a sweep's columns, where the sweep has it."""

DIVERGENCES = ("attention_kl_swapped", "attention_kl_distilled")
"""Metrics of a conversion, before and after distillation: mean divergence from softmax attention."""

WITHOUT_BRANCH = "_without_linear_branch"
"""What the name of a hybrid's main metric ends with when its linear branch is left out."""

_LONG_HASH = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{8,}\b")

_Place: TypeAlias = tuple[str, str, str, int | None]
_ModelKey: TypeAlias = tuple[str, int]


@dataclass(frozen=True)
class Entry:
    """One cell.

    Attributes:
        text: The value, why there is none, or a dash.
        stderr: Standard error, formatted like the value; empty where there is none.
        percent: Percent of softmax's score; empty for softmax itself and where not defined.
        note: What a reader must know, such as seeds that failed.
        best: Whether no comparable model of the column is better.
        failed: Whether the cell stands for a failure.
        rank: Rank among the comparable models of the column, `=` behind it where it is shared; empty where there is
            none (see `ranks`).
        standing: Better than softmax, the same or worse, as far as the errors allow to say; empty where unknown.
        order: What a column is sorted by; None at the end.
    """

    text: str
    stderr: str = ""
    percent: str = ""
    note: str = ""
    best: bool = False
    failed: bool = False
    rank: str = ""
    standing: Standing = ""
    order: float | None = None


MISSING = Entry("–")


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
    rows: tuple[tuple[str, tuple[Entry, ...]], ...]
    is_sweep: bool = False


@dataclass(frozen=True)
class Section:
    """The tables of one backbone, recipe and scale, whose numbers may be compared.

    Attributes:
        title: Backbone, recipe and scale.
        tables: Main metrics and sweeps.
        secondary: What else there is to know of conversions.
        notes: What the tables mean, in words.
    """

    title: str
    tables: tuple[Table, ...]
    secondary: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()


def sections(rows: Sequence[Row], notes: Mapping[Conditions, Sequence[str]] | None = None) -> list[Section]:
    """The tables of a leaderboard's rows; numbers of another backbone, recipe, scale or limit never share one.

    Args:
        rows: The rows.
        notes: What to say beside the tables, by the comparison that it is about.
    """
    places: dict[_Place, list[Row]] = defaultdict(list)
    for row in rows:
        places[_place(row.comparison)].append(row)
    scores: dict[_Place, list[GroupScore]] = defaultdict(list)
    for score in group_scores_of(rows):
        scores[_place(score.comparison)].append(score)
    return [
        Section(
            place_title(members[0].comparison),
            _tables(members, scores[place]),
            _secondary_tables(members),
            tuple(note for where, said in (notes or {}).items() if _place(where) == place for note in said),
        )
        for place, members in places.items()
    ]


def model_label(model: str, variant: int) -> str:
    """A model's name in tables and legends; the second and later sets of settings are numbered."""
    return model if variant == 0 else f"{model} (settings {variant + 1})"


def _tables(rows: Sequence[Row], scores: Sequence[GroupScore]) -> tuple[Table, ...]:
    main = main_rows(rows)
    tables = [_main_table(main, scores)] if main else []
    sweeps: dict[tuple[Conditions, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if is_detail(row):
            continue
        if row.at and not (row.is_main and row.comparison in main) and not _is_secondary(row, main):
            sweeps[row.comparison, row.metric, _rest_of_point(row)].append(row)
    failures = [row for row in rows if row.is_failed_cell and row.comparison not in main]
    tables += [
        _sweep_table(rest, members, [row for row in failures if row.comparison == comparison])
        for (comparison, _, rest), members in sweeps.items()
    ]
    return (*tables, *map(_summary_table, summaries(rows)))


def _summary_table(summary: Summary) -> Table:
    """What sweeps say together, as a table; nothing in it is best."""
    columns = tuple(Column(label, detail) for label, detail in summary.columns)
    rows = tuple((model_label(*model), tuple(map(Entry, texts))) for model, texts in summary.texts.items())
    return Table(summary.title, columns, rows, is_sweep=True)


def _main_table(columns: Mapping[Conditions, Sequence[Row]], scores: Sequence[GroupScore]) -> Table:
    models = _models(row for rows in columns.values() for row in rows)
    filled = [_column(members, models) for members in columns.values()]
    headings = [_task_column(comparison, members, columns) for comparison, members in columns.items()]
    ranked = [column for column in filled if any(cell.rank for cell in column)]
    for group in dict.fromkeys(score.comparison for score in scores):
        members_of_group = {(s.model, s.variant): s for s in scores if s.comparison == group}
        headings.append(Column(group.task, "% of softmax ↑"))
        filled.append([_group_cell(members_of_group.get(model)) for model in models])
    if len(ranked) > 1:
        headings.append(Column("mean rank", f"over {len(ranked)} columns ↓"))
        filled.append(_mean_ranks(ranked))
    return Table("Main metrics", tuple(headings), _transpose(models, filled))


def _secondary_tables(rows: Sequence[Row]) -> tuple[Table, ...]:
    """Divergences, and scores without a hybrid's linear branch; only models that have such numbers have a line."""
    main = main_rows(rows)
    divergences: dict[tuple[Conditions, str], list[Row]] = defaultdict(list)
    without_branch: dict[tuple[Conditions, str], list[Row]] = defaultdict(list)
    for row in rows:
        if _is_secondary(row, main):
            kind = divergences if row.metric in DIVERGENCES else without_branch
            kind[row.comparison, row.metric].append(row)
    kinds = {"Attention divergence from softmax": divergences, "Hybrids without their linear branch": without_branch}
    return tuple(_secondary_table(title, columns) for title, columns in kinds.items() if columns)


def _secondary_table(title: str, columns: Mapping[tuple[Conditions, str], Sequence[Row]]) -> Table:
    """A column for each task and metric; nothing is marked as best, as these numbers do not rank models."""
    models = _models(row for rows in columns.values() for row in rows)
    comparisons = list(dict.fromkeys(where for where, _ in columns))
    ordered = sorted(columns, key=lambda key: (comparisons.index(key[0]), key[1] == DIVERGENCES[-1], key[1]))
    filled = [
        [replace(cell, best=False, rank="", standing="") for cell in _column(columns[key], models)] for key in ordered
    ]
    headings = tuple(_task_column(key[0], columns[key], comparisons) for key in ordered)
    return Table(title, headings, _transpose(models, filled))


def _is_secondary(row: Row, main: Mapping[Conditions, Sequence[Row]]) -> bool:
    """Whether a row belongs to the secondary tables; a hybrid's score stands at the point of its main metric."""
    if row.metric in DIVERGENCES:
        return not row.at
    return row.metric.endswith(WITHOUT_BRANCH) and (not row.at or row.comparison in main)


def _sweep_table(rest: str, rows: Sequence[Row], failures: Sequence[Row]) -> Table:
    axis = _axis(rows[0])
    points = sorted({row.coordinates[axis] for row in rows}, key=lambda point: (isinstance(point, str), point))
    models = _models([*rows, *failures])
    filled = [_column([row for row in rows if row.coordinates[axis] == point], models, failures) for point in points]
    example = next((row for row in rows if row.value is not None), rows[0])
    title = f"{rows[0].comparison.task}: {metric_label(example)}" + (f", {rest}" if rest else "")
    columns = tuple(Column(f"{axis}={point}" if i == 0 else str(point)) for i, point in enumerate(points))
    return Table(title, columns, _transpose(models, filled), is_sweep=True)


def _column(rows: Sequence[Row], models: Sequence[_ModelKey], failures: Sequence[Row] = ()) -> list[Entry]:
    """One cell for each model; a failure of the whole cell fills what its model lacks."""
    found: dict[_ModelKey, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.model, row.variant].append(row)
    where = dict(zip(map(id, rows), rankings(rows), strict=True))
    cells = []
    for model in models:
        own = found.get(model) or [row for row in failures if (row.model, row.variant) == model]
        measured = next((row for row in own if row.value is not None), None)
        if measured is None:
            cells.append(_failed_cell(own) if own else MISSING)
        else:
            cells.append(_measured_cell(measured, own, where[id(measured)]))
    return cells


def _failed_cell(rows: Sequence[Row]) -> Entry:
    return Entry(", ".join(format_status(row.status) for row in rows), failed=True)


def _measured_cell(measured: Row, own: Sequence[Row], place: Ranking) -> Entry:
    """The cell of a model's one row with a value; its other rows say which seeds failed, and how."""
    text, stderr = format_measurement(measured.value, measured.stderr, measured.unit)
    failed = [f"seed {row.seeds}: {format_status(row.status)}" for row in own if row.value is None]
    return Entry(
        text,
        stderr,
        percent="" if measured.model == REFERENCE_MODEL else format_percent(measured.percent_recovered),
        note="; ".join(failed),
        best=place.is_best,
        rank=place.rank,
        standing=place.standing,
        order=measured.value,
    )


def _group_cell(score: GroupScore | None) -> Entry:
    if score is None:
        return MISSING
    if score.percent_recovered is None:
        return Entry(f"{score.done} of {score.total}")
    return Entry(f"{score.percent_recovered:.1f}", order=score.percent_recovered)


def _mean_ranks(columns: Sequence[Sequence[Entry]]) -> list[Entry]:
    """Each model's mean rank over the columns, all of which have ranks; how many it has where it lacks some."""
    means = []
    for cells in zip(*columns, strict=True):
        ranks = [int(cell.rank.rstrip("=")) for cell in cells if cell.rank]
        mean = sum(ranks) / len(cells)
        means.append(
            Entry(f"{mean:.1f}", order=mean) if len(ranks) == len(cells) else Entry(f"{len(ranks)} of {len(cells)}")
        )
    return means


def _task_column(comparison: Conditions, rows: Sequence[Row], columns: Iterable[Conditions]) -> Column:
    example = next((row for row in rows if row.value is not None), rows[0])
    twins = sum(other.task == comparison.task for other in columns)
    point = f", {example.at.replace(';', ', ')}" if example.at else ""
    data = _LONG_HASH.sub(r"\1…", comparison.data) or "?"
    return Column(comparison.task, metric_label(example) + point + (f" on {data}" if twins > 1 else ""))


def metric_label(row: Row) -> str:
    """A metric's name, its unit where the name does not end with it, and the direction of improvement."""
    is_named = row.unit in ("", "1") or f"_{row.metric}".endswith(f"_{row.unit.replace('/', '_per_')}")
    return f"{row.metric}{'' if is_named else f' [{row.unit}]'}{format_arrow(row.higher_is_better)}"


def _models(rows: Iterable[Row]) -> list[_ModelKey]:
    """Softmax first, then by name: the order of the leaderboard's rows, over all tasks."""
    return sorted({(row.model, row.variant) for row in rows}, key=lambda key: (key[0] != REFERENCE_MODEL, key))


def _transpose(
    models: Sequence[_ModelKey], columns: Sequence[Sequence[Entry]]
) -> tuple[tuple[str, tuple[Entry, ...]], ...]:
    return tuple((model_label(*model), tuple(column[i] for column in columns)) for i, model in enumerate(models))


def _axis(row: Row) -> str:
    return AXIS if AXIS in row.coordinates else min(row.coordinates)


def _rest_of_point(row: Row) -> str:
    axis = _axis(row)
    return ", ".join(f"{key}={row.coordinates[key]}" for key in sorted(row.coordinates) if key != axis)


def _place(comparison: Conditions) -> _Place:
    return comparison.backbone, comparison.recipe, comparison.scale, comparison.limit


def place_title(comparison: Conditions) -> str:
    """What a section is called: backbone, recipe and scale, and the limit of partial results."""
    title = f"{comparison.backbone} · {comparison.recipe} · {comparison.scale}"
    return title if comparison.limit is None else f"{title} · {PARTIAL}: first {comparison.limit} rows"

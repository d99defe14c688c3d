"""The leaderboard's tables as values: models × tasks for the main metrics, models × points for each sweep.

Markdown, LaTeX, HTML and the terminal render these values and decide nothing about their content.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from ..record import WITHOUT_BRANCH
from ..stats.budget import STATE, Budgets, Item
from ..stats.chance import chance_level
from .aggregate import main_budgets, main_rows
from .efficiency import UNDECIDED, is_detail, summaries
from .format import format_arrow, format_factor, format_measurement, format_status
from .groups import GroupScore, group_scores
from .ranks import UNRANKED, Ranking, pairing, rankings
from .row import AXIS, REFERENCE_MODEL, Conditions, ModelKey, Row, grouped, model_label, softmax_first

DIVERGENCES = ("attention_kl_swapped", "attention_kl_distilled")
"""Metrics of a conversion, before and after distillation: mean divergence from softmax attention."""

MAIN = "Main metrics"
"""Title of the table of main metrics; it is left out where a section's title stands above it."""

_LONG_HASH = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{8,}\b")

_Rows: TypeAlias = tuple[tuple[str, tuple["Entry", ...]], ...]


@dataclass(frozen=True)
class Entry:
    """One cell of a table.

    Attributes:
        text: The value, the reason why there is none, or a dash.
        stderr: Standard error, formatted like the value; empty if there is none.
        percent: Percent of softmax's score, or a cost as a factor of softmax's; empty for softmax itself and if not
            defined.
        note: A remark, such as seeds that failed or why a time is not compared.
        failed: Whether the cell stands for a failure.
        pale: Whether the number must not be compared with others.
        ranking: Rank of the model among the comparable models of the column.
        order: The number by which a column is sorted; None sorts last.
    """

    text: str
    stderr: str = ""
    percent: str = ""
    note: str = ""
    failed: bool = False
    pale: bool = False
    ranking: Ranking = UNRANKED
    order: float | None = None


MISSING = Entry("–")


@dataclass(frozen=True)
class Markup:
    """How an entry is written in a markup language.

    Attributes:
        escape: Escapes a text.
        best: Format of the text of a column's best entry.
        stderr: Format of a standard error.
        rank: Format of a rank.
    """

    escape: Callable[[str], str]
    best: str
    stderr: str
    rank: str

    def entry(self, entry: Entry) -> str:
        """The entry as one line, with all of its parts."""
        parts = (
            (entry.text, self.best if entry.ranking.is_best else "{}"),
            (entry.stderr, self.stderr),
            (entry.percent, " ({})"),
            (entry.ranking.rank, self.rank),
            (entry.note, " ({})"),
        )
        return "".join(form.format(self.escape(text)) for text, form in parts if text)


@dataclass(frozen=True)
class Column:
    """A column's heading: a task or a point, and the metric with its direction."""

    label: str
    detail: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: The title.
        columns: Headings.
        rows: A model's label and one entry per column, for each model.
        is_folded: Whether a page folds it, as it does sweeps, whose plots show the same.
    """

    title: str
    columns: tuple[Column, ...]
    rows: _Rows
    is_folded: bool = False


@dataclass(frozen=True)
class Section:
    """The tables of one backbone, recipe and scale, whose numbers may be compared.

    Attributes:
        title: Backbone, recipe and scale.
        tables: Main metrics and sweeps.
        secondary: What trainings were given, and further tables of conversions.
        notes: Sentences about the tables.
    """

    title: str
    tables: tuple[Table, ...]
    secondary: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()


def sections(rows: Sequence[Row], notes: Mapping[Conditions, Sequence[str]] | None = None) -> list[Section]:
    """The tables of a leaderboard's rows; numbers of different backbones, recipes, scales or limits never share one.

    Args:
        rows: The rows.
        notes: Notes for the text beside the tables, by their comparison.
    """
    scores = grouped(group_scores(rows), lambda score: score.comparison.section)
    return [
        Section(
            title,
            _tables(members, scores.get(title, ())),
            (*_budget_tables(members), *_secondary_tables(members)),
            (
                *_pairing_notes(members),
                *_budget_notes(members),
                *(note for where, found in (notes or {}).items() if where.section == title for note in found),
            ),
        )
        for title, members in grouped(rows, lambda row: row.comparison.section).items()
    ]


def _pairing_notes(rows: Sequence[Row]) -> Iterator[str]:
    """One sentence that says how the columns of main metrics are compared."""
    ways = {where: way for where, own in main_rows(rows).items() if (way := pairing(own))}
    if ways:
        told = (f"{', '.join(where.task for where in own)}: {way}" for way, own in _by_way(ways).items())
        yield f"Compared for marks and ranks: {'; '.join(told)}."


def _by_way(ways: Mapping[Conditions, str]) -> dict[str, list[Conditions]]:
    return grouped(ways, lambda where: ways[where])


def _budget_notes(rows: Sequence[Row]) -> Iterator[str]:
    """One sentence for each budget that models of one task were given, or were not given alike."""
    told = {where: budgets.told() for where, budgets in main_budgets(rows).items()}
    return (f"{', '.join(where.task for where in own)}: {said}." for said, own in _by_way(told).items())


def _tables(rows: Sequence[Row], scores: Sequence[GroupScore]) -> tuple[Table, ...]:
    main = main_rows(rows)
    tables = [_main_table(main, scores)] if main else []
    points = [row for row in rows if row.at and not is_detail(row) and not _is_secondary(row, main)]
    points = [row for row in points if not (row.is_main and row.comparison in main)]
    failures = [row for row in rows if row.is_failed_cell and row.comparison not in main]
    sweeps = grouped(points, lambda row: (row.comparison, row.metric, row.other_coordinates(_axis(row))))
    tables += [
        _sweep_table(rest, members, [row for row in failures if row.comparison == comparison])
        for (comparison, _, rest), members in sweeps.items()
    ]
    for summary in summaries(rows):
        columns = tuple(Column(label, detail) for label, detail in summary.columns)
        lines = tuple(
            (model_label(*model), tuple(map(_summary_entry, texts))) for model, texts in summary.texts.items()
        )
        tables.append(Table(summary.title, columns, lines, is_folded=True))
    return tuple(tables)


def _summary_entry(text: str) -> Entry:
    return Entry(text, pale=text.startswith(UNDECIDED))


def _main_table(columns: Mapping[Conditions, Sequence[Row]], scores: Sequence[GroupScore]) -> Table:
    models = _models(row for rows in columns.values() for row in rows)
    filled = [column_entries(members, models) for members in columns.values()]
    headings = [_task_column(comparison, members, columns) for comparison, members in columns.items()]
    for group, members in grouped(scores, lambda score: score.comparison).items():
        score_of = {(score.model, score.variant): score for score in members}
        headings.append(Column(group.task, "% of softmax ↑"))
        filled.append([_group_cell(score_of.get(model)) for model in models])
    return Table(MAIN, tuple(headings), _transpose(models, filled))


def _budget_tables(rows: Sequence[Row]) -> tuple[Table, ...]:
    """What the models of each task were given, beside their scores; folded if there are several such tables."""
    main, found = main_rows(rows), main_budgets(rows)
    return tuple(_budget_table(main[where], budgets, len(found) > 1) for where, budgets in found.items())


def _budget_table(rows: Sequence[Row], budgets: Budgets, is_folded: bool) -> Table:
    where, models = rows[0].comparison, _models(row for row in rows if row.value is not None)
    scores = [replace(entry, percent="", ranking=UNRANKED) for entry in column_entries(rows, models)]
    given = [[_budget_entry(budgets, model_label(*model), item) for model in models] for item in budgets.items]
    columns = (_task_column(where, rows, [where]), *(Column(*item) for item in budgets.items))
    title = f"{where.task}: budget of training (machine not checked to be quiet)"
    return Table(title, columns, _transpose(models, [scores, *given]), is_folded)


def _budget_entry(budgets: Budgets, model: str, item: Item) -> Entry:
    """A mean over seeds, and where it is another than softmax's, as a factor of it; not of seconds."""
    amount, reference = budgets.amount(model, item), budgets.amount(REFERENCE_MODEL, item)
    if amount is None:
        return MISSING
    unit, is_time = "bytes" if item == STATE else "1", item[1] == "seconds"
    is_other = reference is not None and amount[0] != reference[0] and min(amount[0], reference[0]) > 0
    percent = format_factor(amount[0] / reference[0], unit) if reference and is_other and not is_time else ""
    return Entry(*format_measurement(*amount, unit), percent=percent, pale=is_time, order=amount[0])


def _secondary_tables(rows: Sequence[Row]) -> tuple[Table, ...]:
    """Divergences, and scores without a hybrid's linear branch; only models that have such numbers have a line."""
    main = main_rows(rows)
    kinds = grouped((row for row in rows if _is_secondary(row, main)), lambda row: row.metric in DIVERGENCES)
    titles = {True: "Attention divergence from softmax", False: "Hybrids without their linear branch"}
    return tuple(_secondary_table(title, kinds[kind]) for kind, title in titles.items() if kind in kinds)


def _secondary_table(title: str, rows: Sequence[Row]) -> Table:
    """A column for each task and metric; nothing is marked as best, as these numbers do not rank models."""
    models = _models(rows)
    columns = grouped(rows, lambda row: (row.comparison, row.metric))
    comparisons = list(dict.fromkeys(where for where, _ in columns))
    ordered = sorted(columns, key=lambda key: (comparisons.index(key[0]), key[1] == DIVERGENCES[-1], key[1]))
    filled = [[replace(cell, ranking=UNRANKED) for cell in column_entries(columns[key], models)] for key in ordered]
    headings = tuple(_task_column(key[0], columns[key], comparisons) for key in ordered)
    return Table(title, headings, _transpose(models, filled))


def _is_secondary(row: Row, main: Mapping[Conditions, Sequence[Row]]) -> bool:
    """Whether a row belongs to the secondary tables: a divergence, or a hybrid's score without its linear branch."""
    if row.metric in DIVERGENCES:
        return not row.at
    return row.metric.endswith(f"_{WITHOUT_BRANCH}") and (not row.at or row.comparison in main)


def _sweep_table(rest: str, rows: Sequence[Row], failures: Sequence[Row]) -> Table:
    axis = _axis(rows[0])
    at = grouped(rows, lambda row: row.coordinates[axis])
    points = sorted(at, key=lambda point: (isinstance(point, str), point))
    models = _models([*rows, *failures])
    filled = [column_entries(at[point], models, failures) for point in points]
    example = next((row for row in rows if row.value is not None), rows[0])
    title = f"{rows[0].comparison.task}: {metric_label(example)}" + (f", {rest}" if rest else "")
    columns = tuple(Column(f"{axis}={point}" if i == 0 else str(point)) for i, point in enumerate(points))
    return Table(title, columns, _transpose(models, filled), is_folded=True)


def column_entries(rows: Sequence[Row], models: Sequence[ModelKey], failures: Sequence[Row] = ()) -> list[Entry]:
    """One entry for each model; a model without a row at this point shows the failure of its whole cell."""
    ranked = grouped(zip(rows, rankings(rows), strict=True), lambda pair: pair[0].key)
    failed = grouped(((row, UNRANKED) for row in failures), lambda pair: pair[0].key)
    entries = [_entry(ranked.get(model, failed.get(model, []))) for model in models]
    is_disturbed = any(
        place.disturbance for (name, _), own in ranked.items() if name == REFERENCE_MODEL for _, place in own
    )
    return [replace(entry, percent="") if is_disturbed or entry.pale else entry for entry in entries]


def _entry(own: Sequence[tuple[Row, Ranking]]) -> Entry:
    """The entry of a model's one row with a value; its other rows say which seeds failed, and how."""
    measured, ranking = next((pair for pair in own if pair[0].value is not None), (None, None))
    if measured is None or ranking is None:
        return Entry(", ".join(format_status(row.status) for row, _ in own), failed=True) if own else MISSING
    text, stderr = format_measurement(measured.value, measured.stderr, measured.unit)
    failed = (f"seed {row.seeds}: {format_status(row.status)}" for row, _ in own if row.value is None)
    return Entry(
        text,
        stderr,
        percent="" if measured.model == REFERENCE_MODEL else _beside_softmax(measured),
        note="; ".join((*failed, *filter(None, (ranking.disturbance,)))),
        pale=bool(ranking.disturbance),
        ranking=ranking,
        order=measured.value,
    )


def _beside_softmax(row: Row) -> str:
    if row.factor is not None:
        return format_factor(row.factor, row.unit)
    return "" if row.percent_recovered is None else f"{row.percent_recovered:.1f}%"


def _group_cell(score: GroupScore | None) -> Entry:
    if score is None:
        return MISSING
    counted = f"{score.done} of {score.total}"
    if score.percent_recovered is None:
        return Entry(counted)
    text = f"{score.percent_recovered:.1f} over {counted}"
    return Entry(text, order=score.percent_recovered if score.done == score.total else None)


def _task_column(comparison: Conditions, rows: Sequence[Row], columns: Iterable[Conditions]) -> Column:
    example = next((row for row in rows if row.value is not None), rows[0])
    twins = sum(other.task == comparison.task for other in columns)
    point = f", {example.point}" if example.at else ""
    data = _LONG_HASH.sub(r"\1…", comparison.data) or "?"
    level = None if point else chance_level(example.metric, (r for row in rows for r in row.evidence.records))
    chance = "" if level is None else f", {level.name} {format_measurement(level.value, None)[0]}"
    return Column(comparison.task, metric_label(example) + point + chance + (f" on {data}" if twins > 1 else ""))


def metric_label(row: Row) -> str:
    """A metric's name, its unit unless the name ends with it, and the direction of improvement."""
    is_named = row.unit in ("", "1") or f"_{row.metric}".endswith(f"_{row.unit.replace('/', '_per_')}")
    return f"{row.metric}{'' if is_named else f' [{row.unit}]'}{format_arrow(row.higher_is_better)}"


def _models(rows: Iterable[Row]) -> list[ModelKey]:
    """Softmax first, then by name: the order of the leaderboard's rows, over all tasks."""
    return sorted({row.key for row in rows}, key=softmax_first)


def _transpose(models: Sequence[ModelKey], columns: Sequence[Sequence[Entry]]) -> _Rows:
    return tuple((model_label(*model), tuple(column[i] for column in columns)) for i, model in enumerate(models))


def _axis(row: Row) -> str:
    return AXIS if AXIS in row.coordinates else min(row.coordinates)

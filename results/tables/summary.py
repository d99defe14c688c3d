"""The one table of a run, as a value: a line for each model, a column for each task, and for sweeps three columns.

A task's column has its main metric. A sweep of times or memory over length has columns of the longest length at which
softmax was measured, as factors of softmax, and of the length from which a model is faster. Every entry carries its
standing to softmax; `findings` says the same in words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, get_args

from ..stats.changes import ALPHA, Change, adjusted, satterthwaite
from .aggregate import main_rows, reference_of
from .efficiency import Crossover, crossovers_of_sweep, is_cost
from .format import format_factor, format_measurement, format_status
from .groups import GroupScore, group_scores
from .notes import unlearned_level
from .ranks import Ranking, Standing, differences, pairing, rankings
from .row import AXIS, REFERENCE_MODEL, Conditions, ModelKey, Row, grouped, softmax_first
from .tables import metric_label

Kind: TypeAlias = Literal["score", "group", "time", "memory", "crossover"]
_PLAIN = re.compile(r"-?[\d,]+(\.\d+)?")
_ORDER: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class SummaryEntry:
    """One model's number in a column.

    Attributes:
        text: The score, the cost as a factor of softmax's, or the reason why there is none.
        standing: The model compared with softmax; `same` if their difference is not significant, empty if they are not
            compared.
        percent: Score in percent of softmax's; None if not defined.
        margin: Half of the 95 % interval of `percent`; None if not known.
        factor: A cost's ratio to softmax's.
        at_chance: Name of the score without learning that this one is not significantly better than; empty otherwise.
        note: Why there is no number, or why it is not compared.
        value: The score; None for costs and groups.
        seeds: Seeds of the score, of a group the fewest over its tasks; 0 for costs.
    """

    text: str
    standing: Standing = ""
    percent: float | None = None
    margin: float | None = None
    factor: float | None = None
    at_chance: str = ""
    note: str = ""
    value: float | None = None
    seeds: int = 0


@dataclass(frozen=True)
class SummaryColumn:
    """A column.

    Attributes:
        kind: Whether it has a task's scores, a group's, times, memory, or lengths from which models are faster.
        comparison: Conditions of its numbers; a group's task is the group.
        heading: Lines of its heading.
        entries: An entry for each model that was measured or failed.
        row: A row of the column, of softmax if there is one: its metric, unit, direction and coordinates.
        length: Length of sequences, of times and memory.
        crossovers: The crossovers of a column of them.
        pairing: How scores are compared, in words; empty if fewer than two are.
        apart: Further lines of the heading where two would be alike: what differs in their conditions.
    """

    kind: Kind
    comparison: Conditions
    heading: tuple[str, ...]
    entries: Mapping[ModelKey, SummaryEntry]
    row: Row
    length: int | None = None
    crossovers: Mapping[ModelKey, Crossover] = field(default_factory=dict)
    pairing: str = ""
    apart: tuple[str, ...] = ()

    @property
    def group(self) -> Conditions | None:
        """Conditions of the group that the column's task may belong to, or that it is; None for a single task."""
        name, slash, _ = self.comparison.task.partition("/")
        return replace(self.comparison, task=name, data="") if slash or self.kind == "group" else None

    @property
    def is_of_one_training(self) -> bool:
        """Whether some score is that of a single training, whose error lacks the spread of training."""
        return self.comparison.recipe != "zero-shot" and any(entry.seeds == 1 for entry in self.entries.values())

    @property
    def reference(self) -> SummaryEntry | None:
        """Softmax's entry; None unless there is exactly one."""
        found = [entry for (model, _), entry in self.entries.items() if model == REFERENCE_MODEL]
        return found[0] if len(found) == 1 else None


@dataclass(frozen=True)
class Summary:
    """The table.

    Attributes:
        models: The lines, softmax first.
        columns: Scores by task, each group behind its tasks, then costs.
    """

    models: tuple[ModelKey, ...]
    columns: tuple[SummaryColumn, ...]

    def without_members(self) -> Summary:
        """The table with a column for each group in place of the columns of its tasks."""
        groups = {column.group for column in self.columns if column.kind == "group"}
        kept = (column for column in self.columns if column.kind != "score" or column.group not in groups)
        return replace(self, columns=tuple(kept))


def summary(rows: Sequence[Row]) -> Summary:
    """The table of a leaderboard's rows.

    Args:
        rows: Rows as `leaderboard_rows` or `rows_of_groups` give them.
    """
    main = main_rows(rows)
    costs = list(_cost_columns(rows))
    swept = {column.comparison for column in costs}
    quality = {where: own for where, own in main.items() if where not in swept}
    scores = [_score_column(where, own) for where, own in quality.items()]
    groups = list(_group_columns(rows, quality))
    failed = {row.key for row in rows if row.is_failed_cell}
    columns = [*scores, *groups, *costs]
    columns.sort(key=lambda column: _ORDER.index(column.kind))
    models = {*failed, *(model for column in columns for model in column.entries)}
    return Summary(tuple(sorted(models, key=softmax_first)), _told_apart(columns))


def _score_column(where: Conditions, rows: Sequence[Row]) -> SummaryColumn:
    places = [(row, place) for row, place in zip(rows, rankings(rows), strict=True)]
    entries = {model: _score(own, rows) for model, own in grouped(places, lambda pair: pair[0].key).items()}
    example = _example(rows)
    heading = where.task, metric_label(example)
    entries = _evenly(entries, {row.key: row for row in rows if row.value is not None})
    return SummaryColumn("score", where, heading, entries, example, pairing=pairing(rows))


def _score(own: Sequence[tuple[Row, Ranking]], peers: Sequence[Row]) -> SummaryEntry:
    measured, place = next((pair for pair in own if pair[0].value is not None), (None, None))
    if measured is None or place is None:
        statuses = ", ".join(dict.fromkeys(format_status(row.status) for row, _ in own))
        return SummaryEntry(statuses, note=statuses)
    text = format_measurement(measured.value, measured.stderr, measured.unit)[0]
    if place.disturbance:
        return SummaryEntry(text, note=place.disturbance)
    unlearned = unlearned_level(measured)
    return SummaryEntry(
        text,
        place.standing,
        measured.percent_recovered,
        _margin(measured, reference_of(measured, (row for row in peers if row.model == REFERENCE_MODEL))),
        measured.factor,
        unlearned.name if unlearned else "",
        value=measured.value,
        seeds=measured.seeds.count(",") + 1,
    )


def _evenly(entries: Mapping[ModelKey, SummaryEntry], rows: Mapping[ModelKey, Row]) -> dict[ModelKey, SummaryEntry]:
    """The entries with equally many decimals: those of the least certain number, at most one fewer than softmax's."""
    numbers = {model: entry.text for model, entry in entries.items() if _PLAIN.fullmatch(entry.text)}
    places = {model: len(text.partition(".")[2]) for model, text in numbers.items() if rows[model].value}
    of_softmax = [count for (model, _), count in places.items() if model == REFERENCE_MODEL]
    decimals = max(min(places.values(), default=0), *(count - 1 for count in of_softmax), 0)
    even = {model: f"{rows[model].value:,.{decimals}f}" for model in numbers}
    return {model: replace(entry, text=even.get(model, entry.text)) for model, entry in entries.items()}


def _margin(row: Row, reference: Row | None) -> float | None:
    """Half of the 95 % interval of a score in percent of softmax's."""
    percent = row.percent_recovered
    if reference is None or reference is row or percent is None or not row.value or not reference.value:
        return None
    change = differences([reference, row])[0, 1]
    if change.method == "unpaired" and (row.stderr is None or reference.stderr is None):
        return None
    if change.method != "unpaired" and not _in_points(row):
        return percent * change.half_width()
    return percent * change.half_width() / (reference.value * percent / 100 if row.higher_is_better else row.value)


def _in_points(row: Row) -> bool:
    """Whether a paired change of the row's metric is in points, as `results.stats.changes` takes it."""
    return row.unit == "1" and bool(row.higher_is_better)


def _group_columns(rows: Sequence[Row], quality: Mapping[Conditions, Sequence[Row]]) -> Iterator[SummaryColumn]:
    for where, scores in grouped(group_scores(rows), lambda score: score.comparison).items():
        members = [own for task, own in quality.items() if replace(task, task=where.task, data="") == where]
        members = [own for own in members if own[0].comparison.task.startswith(f"{where.task}/")]
        if len(members) > 1:
            changes = {
                (score.model, score.variant): found
                for score in scores
                if score.model != REFERENCE_MODEL and score.done == score.total
                if (found := _group_change((score.model, score.variant), members))
            }
            p_values = adjusted(
                {model: p for model, (change, _) in changes.items() if (p := change.p_value) is not None}
            )
            done = max(score.done for score in scores)
            seeds = grouped((row for own in members for row in own if row.value is not None), lambda row: row.key)
            entries = {
                key: replace(
                    _group_entry(score, changes.get(key), p_values, done),
                    seeds=min((row.seeds.count(",") + 1 for row in seeds.get(key, ())), default=0),
                )
                for score in scores
                for key in [(score.model, score.variant)]
            }
            heading = where.task, "% of softmax ↑", f"{done} of {scores[0].total} tasks"
            yield SummaryColumn("group", where, heading, entries, _example(members[0]))


def _group_change(model: ModelKey, members: Sequence[Sequence[Row]]) -> tuple[Change, float] | None:
    """The change of a group's sum of scores against softmax's, and softmax's sum; None if a score has no error."""
    worse = total = 0.0
    errors: list[tuple[float, float]] = []
    for rows in members:
        row = next((row for row in rows if row.key == model and row.value is not None), None)
        reference = row and reference_of(row, (each for each in rows if each.model == REFERENCE_MODEL))
        if row is None or reference is None or reference.value is None or not _in_points(row):
            return None
        change = differences([reference, row])[0, 1]
        if change.stderr is None:
            return None
        worse, total = worse + change.worse, total + reference.value
        errors.append((change.stderr**2, change.freedom))
    stderr = math.sqrt(sum(variance for variance, _ in errors))
    return Change(worse, stderr, satterthwaite(errors), "sum", len(members)), total


def _group_entry(
    score: GroupScore, change: tuple[Change, float] | None, p_values: Mapping[ModelKey, float], most: int
) -> SummaryEntry:
    if score.percent_recovered is None:
        return SummaryEntry(f"{score.done} of {score.total}", note="no common sum")
    text = f"{score.percent_recovered:.1f}" + ("" if score.done == most else f" over {score.done}")
    if change is None:
        return SummaryEntry(text, percent=score.percent_recovered)
    key = score.model, score.variant
    standing: Standing = "same" if p_values[key] >= ALPHA else "worse" if change[0].worse > 0 else "better"
    return SummaryEntry(text, standing, score.percent_recovered, 100 * change[0].half_width() / change[1])


def _cost_columns(rows: Sequence[Row]) -> Iterator[SummaryColumn]:
    """Time, memory and crossover of each task that sweeps them over length; of several sweeps the headline's."""
    points = [row for row in rows if is_cost(row) and not row.metric.endswith("_tokens_per_s")]
    for where, own in grouped(points, lambda row: row.comparison).items():
        headline = next((row.metric for row in rows if row.comparison == where and row.is_main), "")
        for kind, unit in (("time", "ms"), ("memory", "bytes")):
            sweeps = grouped(
                (row for row in own if row.unit == unit), lambda row: (row.metric, row.other_coordinates(AXIS))
            )
            if sweeps:
                chosen = max(sweeps.values(), key=lambda sweep: _likeness(sweep[0], headline))
                failures = [row for row in rows if row.is_failed_cell and row.comparison == where]
                yield _cost_column("time" if kind == "time" else "memory", chosen, failures)
                if kind == "time" and (found := crossovers_of_sweep(chosen)):
                    yield _crossover_column(chosen, found)


def _likeness(row: Row, headline: str) -> tuple[int, int]:
    """How many words a sweep shares with its task's main metric and name, and how few others it has."""
    words = {*row.metric.split("_"), *(str(value) for value in row.coordinates.values())}
    sought = {*headline.split("_"), *row.comparison.task.split("/")}
    return len(words & sought), -len(words - sought)


def _cost_column(kind: Literal["time", "memory"], sweep: Sequence[Row], failures: Sequence[Row]) -> SummaryColumn:
    measured = [row for row in sweep if row.value is not None]
    softmax = [row.seq_len for row in measured if row.model == REFERENCE_MODEL]
    length = max(softmax or [row.seq_len for row in measured or sweep])
    column = [row for row in sweep if row.seq_len == length]
    places = dict(zip((row.key for row in column), rankings(column), strict=True))
    is_compared = not any(place.disturbance for (model, _), place in places.items() if model == REFERENCE_MODEL)
    entries = {row.key: SummaryEntry(format_status(row.status), note=row.status) for row in failures}
    # A climb ends where it fails, so a model may have no row at a longer length.
    entries |= {row.key: SummaryEntry(format_status(row.status), note=row.status) for row in sweep if row.value is None}
    entries |= {row.key: _cost(row, places[row.key], is_compared) for row in column}
    heading = kind, f"at {length:,.0f}"
    return SummaryColumn(kind, column[0].comparison, heading, entries, _example(column), int(length))


def _cost(row: Row, place: Ranking, is_compared: bool) -> SummaryEntry:
    if row.value is None:
        return SummaryEntry(format_status(row.status), note=row.status)
    if place.disturbance:
        return SummaryEntry("not quiet", note=place.disturbance)
    if is_compared and row.factor is not None and row.model != REFERENCE_MODEL:
        return SummaryEntry(format_factor(row.factor, row.unit), place.standing, factor=row.factor)
    text = format_measurement(row.value, row.stderr, row.unit)[0]
    return SummaryEntry(text if row.unit == "bytes" else f"{text} {row.unit}")


def _crossover_column(sweep: Sequence[Row], found: Sequence[Crossover]) -> SummaryColumn:
    entries = dict.fromkeys((row.key for row in sweep), SummaryEntry(""))
    entries |= {each.model: SummaryEntry(_crossing(each), note=each.reason) for each in found}
    crossings = {each.model: each for each in found}
    heading = "faster", "from length"
    return SummaryColumn("crossover", sweep[0].comparison, heading, entries, _example(sweep), crossovers=crossings)


def _crossing(found: Crossover) -> str:
    return f"{found.length:,.0f}" if found.length is not None else found.kind


def _example(rows: Sequence[Row]) -> Row:
    measured = [row for row in rows if row.value is not None] or list(rows)
    return next((row for row in measured if row.model == REFERENCE_MODEL), measured[0])


def _told_apart(columns: Sequence[SummaryColumn]) -> tuple[SummaryColumn, ...]:
    """The columns with what sets them apart where two headings are alike: task, backbone, recipe, scale and so on."""
    found = []
    for column in columns:
        twins = [other.comparison for other in columns if other.kind == column.kind and _is_twin(column, other)]
        places = [_place(where) for where in (column.comparison, *twins)]
        differing = [own for own, *others in zip(*places, strict=True) if set(others) != {own}]
        if column.comparison.task in differing:  # another task has other data, which says no more
            differing = [own for own in differing if own != places[0][-1]]
        found.append(replace(column, apart=tuple(differing)))
    return tuple(found)


def _is_twin(column: SummaryColumn, other: SummaryColumn) -> bool:
    """Whether two headings are alike; those of scores and groups begin with the task."""
    return column.kind not in ("score", "group") or column.comparison.task == other.comparison.task


def _place(where: Conditions) -> tuple[str, ...]:
    """What tells columns apart, most telling first; a digest of data is shortened, and a name of data is not."""
    limit = "all rows" if where.limit is None else f"{where.limit} rows"
    fingerprint = where.data.rpartition("@")[2]
    data = fingerprint[-12:] if re.fullmatch("[0-9a-f]{16,}", fingerprint) else fingerprint
    return where.task, where.backbone, where.recipe, where.scale, limit, data

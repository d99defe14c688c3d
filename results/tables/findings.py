"""What a run has found, one sentence for each task: only what its measurements are sure of.

A score counts as sure if it differs significantly from softmax's, or if it does not and the whole 95 % interval of its
percentage is within `NARROW` of 100. Scores of one seed say so: how training varies is not in their errors. Nothing is
said of scores beside a softmax that has not learned, except that; of times on a machine that was not quiet; or of
lengths that were not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from .efficiency import Crossover
from .format import format_factor
from .notes import chance_note
from .row import AXIS, REFERENCE_MODEL, Conditions, ModelKey, Row, grouped, model_label
from .summary import Kind, Summary, SummaryColumn, SummaryEntry, summary

MOST_MODELS = 5
"""Most parts of a sentence."""

NARROW = 5.0
"""Largest distance from softmax's score, in percent of it, at which two scores are about the same."""

SMALLEST_FACTOR = 1.02
"""Costs closer to softmax's than by this factor are not worth a sentence."""

Subject: TypeAlias = Literal["quality", "time", "memory"]


@dataclass(frozen=True)
class SureFinding:
    """A sentence that the measurements are sure of.

    Attributes:
        text: The sentence, without a full stop.
        subject: What it is about.
        comparison: Where it was measured; of a group of tasks, its task is the group.
        models: Labels of the models that it is about, in its order.
    """

    text: str
    subject: Subject
    comparison: Conditions
    models: tuple[str, ...]


def findings(rows: Sequence[Row]) -> list[SureFinding]:
    """What the leaderboard's rows are sure of: quality by task, then time and memory.

    Args:
        rows: Rows as `leaderboard_rows` or `rows_of_groups` give them; with scores by document, comparisons are paired.

    Returns:
        At most one finding for each column of `summary`, where a group whose tasks were all measured stands for them;
        and one for each sweep in which softmax ran out of memory and others did not.
    """
    table = summary(rows)
    return findings_of(table, rows)


def findings_of(table: Summary, rows: Sequence[Row]) -> list[SureFinding]:
    """`findings`, from a table that `summary` has made of the rows."""
    whole = {column.group for column in table.columns if column.kind == "group" and _sure_scores(column)}
    told = (column for column in table.columns if column.kind == "group" or column.group not in whole)
    found = (_SENTENCES[column.kind](table, column) for column in told if column.kind in _SENTENCES)
    return [*(each for each in found if each), *_out_of_memory(table, rows)]


def _quality(_: Summary, column: SummaryColumn) -> SureFinding | None:
    reference = column.reference
    if reference is None or reference.note:
        return None
    place, metric = f"{column.comparison.task}{_tasks(column)}{_apart(column)}", column.row.metric
    if reference.at_chance:
        text = chance_note(column.row).removesuffix(".")
        return SureFinding(text, "quality", column.comparison, (REFERENCE_MODEL,))
    found = _sure_scores(column)
    if column.row.value == 0:  # a divergence from softmax: that softmax itself has none goes without saying
        parts = [_Part(model, f"{metric} {entry.text}") for model, entry in found.items()]
        return _finding(column, "quality", parts, "has", f"on {place}")
    if any(entry.percent is None for entry in found.values()):
        parts = [_Part(model, f"{metric} {entry.text}", _aside(entry)) for model, entry in found.items()]
        return _finding(column, "quality", parts, "has", f"on {place}, where softmax has {reference.text}")
    parts = [_Part(model, f"{entry.percent:.1f}%", _aside(entry)) for model, entry in found.items()]
    return _finding(column, "quality", parts, "recovers", f"of softmax on {place}")


def _sure_scores(column: SummaryColumn) -> dict[ModelKey, SummaryEntry]:
    """The entries whose standing to softmax is sure, best first."""
    found = {
        model: entry
        for model, entry in column.entries.items()
        if (entry.standing in ("better", "worse") and (entry.percent is None or entry.margin is not None))
        or (entry.standing == "same" and _is_close(entry))
    }
    sign = -1 if column.row.higher_is_better or column.kind == "group" else 1

    def order(model: ModelKey) -> float:
        entry = found[model]
        return sign * ((entry.percent if column.kind == "group" else entry.value) or 0.0)

    return {model: found[model] for model in sorted(found, key=order)}


def _is_close(entry: SummaryEntry) -> bool:
    """Whether the interval of a score's percentage holds 100, and is within `NARROW` of it."""
    if entry.percent is None or entry.margin is None:
        return False
    distance = abs(entry.percent - 100)
    return distance <= entry.margin and distance + entry.margin <= NARROW


def _aside(entry: SummaryEntry) -> str:
    if entry.at_chance:
        return f", {_unlearned(entry)}"
    if entry.standing == "same":
        return ", within error"
    return f", significantly {entry.standing}" if entry.percent is None or entry.standing == "better" else ""


def _unlearned(entry: SummaryEntry) -> str:
    return "at chance" if entry.at_chance.startswith("chance") else f"no better than {entry.at_chance}"


def _tasks(column: SummaryColumn) -> str:
    return f", over {column.heading[2]}" if column.kind == "group" else ""


def _apart(column: SummaryColumn) -> str:
    """What sets a column apart, and whether its errors lack the spread of training."""
    told = (*column.apart, *(("one seed",) if column.is_of_one_training else ()))
    return f" ({', '.join(told)})" if told else ""


def _time(table: Summary, column: SummaryColumn) -> SureFinding | None:
    crossings: Mapping[ModelKey, Crossover] = next(
        (c.crossovers for c in table.columns if c.kind == "crossover" and c.comparison == column.comparison), {}
    )
    mode = column.row.metric.removesuffix("_ms").replace("_", " ")
    factors = _sure_factors(column)
    if factors:
        parts = [
            _Part(model, format_factor(factor, column.row.unit), _crossing(crossings.get(model)))
            for model, factor in factors
        ]
        return _finding(
            column, "time", parts, "is", f"than softmax at {column.length:,} tokens ({mode}){_apart(column)}"
        )
    parts = [
        _Part(model, "faster", said.removeprefix(", faster"))
        for model, found in crossings.items()
        if (said := _crossing(found))
    ]
    return _finding(column, "time", parts, "is", f"than softmax's kernels{_apart(column) or f' ({mode})'}")


def _memory(_: Summary, column: SummaryColumn) -> SureFinding | None:
    parts = [_Part(model, format_factor(factor, "")) for model, factor in _sure_factors(column)]
    mode = f" ({column.row.coordinates['mode']})" if "mode" in column.row.coordinates else ""
    return _finding(
        column, "memory", parts, "takes", f"memory than softmax at {column.length:,} tokens{mode}{_apart(column)}"
    )


def _sure_factors(column: SummaryColumn) -> list[tuple[ModelKey, float]]:
    """The models whose cost differs from softmax's, cheapest first, with its factor."""
    found = [
        (model, entry.factor)
        for model, entry in column.entries.items()
        if entry.factor is not None
        and entry.standing in ("better", "worse")
        and max(entry.factor, 1 / entry.factor) >= SMALLEST_FACTOR
    ]
    return sorted(found, key=lambda pair: pair[1])


def _crossing(found: Crossover | None) -> str:
    if found is None or found.kind in ("undecided", "never"):
        return ""
    from_length = found.shortest if found.length is None else found.length
    return f", faster from {from_length:,.0f} on"


def _out_of_memory(table: Summary, rows: Sequence[Row]) -> Iterator[SureFinding]:
    """Lengths at which softmax ran out of memory and others did not, in the sweeps of the table."""
    for column in table.columns:
        if column.kind not in ("time", "memory"):
            continue
        points = [row for row in rows if _sweep(row) == _sweep(column.row) and row.has_seq_len]
        softmax = [row for row in points if row.model == REFERENCE_MODEL]
        possible = {row.seq_len for row in softmax if row.value is not None}  # with another seed or other settings
        failed = [row.seq_len for row in softmax if row.status == "oom" and row.seq_len not in possible]
        measured = (row for row in points if row.model != REFERENCE_MODEL and row.value is not None)
        reached = [row for row in measured if failed and row.seq_len >= min(failed)]
        longest = {row.key: row.seq_len for row in sorted(reached, key=lambda row: row.seq_len)}
        if longest:
            ran = (
                f"{', '.join(model_label(*model) for model in own)} ran at {length:,.0f}"
                for length, own in grouped(longest, longest.__getitem__).items()
            )
            where = f"{column.comparison.task}{_apart(column)}"
            text = f"softmax ran out of memory at {min(failed):,.0f} tokens of {where}; {'; '.join(ran)}"
            models = (REFERENCE_MODEL, *(model_label(*model) for model in longest))
            yield SureFinding(text, "memory", column.comparison, models)


def _sweep(row: Row) -> tuple[Conditions, str, str]:
    return row.comparison, row.metric, row.other_coordinates(AXIS)


@dataclass(frozen=True)
class _Part:
    """What a sentence says of one model: its number, and a remark."""

    model: ModelKey
    value: str
    aside: str = ""


def _finding(
    column: SummaryColumn, subject: Subject, parts: Sequence[_Part], verb: str, phrase: str
) -> SureFinding | None:
    """A sentence in which the first model has verb and phrase, and the others have their number; None without models.

    Of more than `MOST_MODELS` models, those at the ends are named.
    """
    if not parts:
        return None
    first, *others = parts
    said = [f"{model_label(*first.model)} {verb} {first.value} {phrase}{first.aside}"]
    said += [f"{model_label(*part.model)} {part.value}{part.aside}" for part in others]
    if len(said) > MOST_MODELS:
        between = len(said) - MOST_MODELS + 1
        said[MOST_MODELS - 2 : -1] = [f"{between} others between"]
    models = tuple(model_label(*part.model) for part in parts)
    return SureFinding("; ".join(said), subject, column.comparison, models)


_SENTENCES: Mapping[Kind, Callable[[Summary, SummaryColumn], SureFinding | None]] = {
    "score": _quality,
    "group": _quality,
    "time": _time,
    "memory": _memory,
}

"""What a run shows at its end: the one table, what its signs mean, and a line for each sure finding.

Nothing is wider than the console, and no cell is wrapped: if the columns do not fit, those of a group of tasks become
one; if they still do not, the table continues below, with all models again.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ..record import Record
from ..stats.evidence import Scores, no_scores
from ..tables.aggregate import group_seeds, rows_of_groups
from ..tables.conversion import audit_notes
from ..tables.findings import findings_of
from ..tables.format import shortened
from ..tables.notes import percent_notes
from ..tables.row import Conditions, ModelKey, grouped, model_label
from ..tables.summary import Summary, SummaryColumn, SummaryEntry, summary

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 80
"""Columns of a console that is no terminal."""

_LONGEST_LABEL, _LONGEST_HEADING, _LONGEST_LINE = 26, 20, 14
_BREAK, _UNIT = re.compile(r"[_/:]"), re.compile(r" \[[^]]*\]")
_GAP = 2
_MISSING = SummaryEntry("–")
_MARKS: Mapping[str, str] = {"better": "+", "worse": "-", "same": "="}
_STYLES: Mapping[str, str] = {"better": "green", "worse": "yellow", "same": "", "": ""}


def print_summary(records: Iterable[Record], console: Console, scores: Scores = no_scores) -> None:
    """Prints the summary of records: table, legend and findings; colours follow the console, which honours NO_COLOR.

    Args:
        records: The cells.
        console: Where to print; one that is no terminal counts as 80 columns wide.
        scores: Gives the records' metrics document by document, for comparisons over the same documents.
    """
    from rich.text import Text

    groups = group_seeds(records)
    rows = rows_of_groups(groups, scores)
    whole = summary(rows)
    width = console.width if console.is_terminal else min(console.width, WIDTH)
    if not whole.models:
        console.print("No results yet.")
        return
    table, blocks = _fitted(whole, width)
    for block in blocks:
        _print_block(table, block, console)
    found = findings_of(whole, rows)
    with_percent = {finding.comparison.section for finding in found if "%" in finding.text}
    notes = [
        note.removesuffix(".")
        for where, said in percent_notes(groups).items()
        for note in said
        if where.section in with_percent
    ]
    notes += [note.removesuffix(".") for said in audit_notes(groups).values() for note in said]
    for line in _legend(table):
        console.print(Text(_wrapped(line, width), style="bright_black"), soft_wrap=True)
    if found or notes:
        console.print()
    for text in dict.fromkeys([*(finding.text for finding in found), *notes]):
        console.print(Text(_wrapped(text, width, "* ")), soft_wrap=True)


def _wrapped(text: str, width: int, mark: str = "") -> str:
    return textwrap.fill(text, width, initial_indent=mark, subsequent_indent=" " * len(mark), break_on_hyphens=False)


def _fitted(whole: Summary, width: int) -> tuple[Summary, list[list[SummaryColumn]]]:
    """The table with all columns or with groups in place of their tasks, and the columns of each of its blocks."""
    fewer = whole.without_members()
    blocks, fewer_blocks = (list(_blocks(table, width)) for table in (whole, fewer))
    return (fewer, fewer_blocks) if len(fewer_blocks) < len(blocks) else (whole, blocks)


def _blocks(table: Summary, width: int) -> Iterator[list[SummaryColumn]]:
    """The columns that stand side by side."""
    label = max(map(len, _labels(table.models)))
    block: list[SummaryColumn] = []
    used = label
    for column in table.columns:
        need = _GAP + max(map(len, _lines(table, column)))
        if block and used + need > width:
            yield block
            block, used = [], label
        block.append(column)
        used += need
    yield block


def _lines(table: Summary, column: SummaryColumn) -> list[str]:
    """The lines of a column: heading and one for each model."""
    return [*_heading(column), *_texts(table, column)]


def _heading(column: SummaryColumn) -> list[str]:
    """The lines of a heading, above the texts and not above their marks."""
    room = " " * (2 if _has_marks(column) else 0)
    first, *others = (*column.heading, *column.apart)
    lines = [*_halves(first), *(_UNIT.sub("", line) for line in others)]
    return [shortened(line, _LONGEST_HEADING) + room for line in lines]


def _halves(name: str) -> list[str]:
    """A long name in two lines, broken behind the sign nearest to its middle."""
    breaks = [found.end() for found in _BREAK.finditer(name)]
    if len(name) <= _LONGEST_LINE or not breaks:
        return [name]
    at = min(breaks, key=lambda place: abs(place - len(name) / 2))
    return [name[:at], name[at:]]


def _texts(table: Summary, column: SummaryColumn) -> list[str]:
    entries = [column.entries.get(model, _MISSING) for model in table.models]
    if not _has_marks(column):
        return [_text(entry) for entry in entries]
    return [f"{_text(entry)} {_MARKS.get(entry.standing, ' ')}" for entry in entries]


def _text(entry: SummaryEntry) -> str:
    """The entry's text; of a cost as a factor the bare number, as `0.37x`."""
    if entry.factor is None:
        return entry.text
    return f"{entry.factor:.2f}x" if 0.1 <= entry.factor < 10 else f"{entry.factor:.2g}x"


def _has_marks(column: SummaryColumn) -> bool:
    return any(entry.standing for entry in column.entries.values())


def _labels(models: Sequence[ModelKey]) -> list[str]:
    """The models' names in the table, shortened if they still differ then."""
    whole = [model_label(*model) for model in models]
    short = [shortened(label, _LONGEST_LABEL) for label in whole]
    return short if len(set(short)) == len(whole) else whole


def _print_block(table: Summary, columns: Sequence[SummaryColumn], console: Console) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, show_edge=False)
    drawn.add_column("model", no_wrap=True)
    for column in columns:
        drawn.add_column(Text("\n".join(_heading(column))), justify="right", no_wrap=True)
    texts = [_texts(table, column) for column in columns]
    for i, (model, label) in enumerate(zip(table.models, _labels(table.models), strict=True)):
        entries = (column.entries.get(model, _MISSING) for column in columns)
        drawn.add_row(
            Text(label),
            *(Text(own[i], _style(entry)) for own, entry in zip(texts, entries, strict=True)),
        )
    console.print(drawn)
    console.print()


def _style(entry: SummaryEntry) -> str:
    return "bright_black" if entry.note else _STYLES[entry.standing]


def _legend(table: Summary) -> Iterator[str]:
    """What the table's signs and headings mean; only of those that it has."""
    columns = table.columns
    entries = [entry for column in columns for entry in column.entries.values()]
    if {entry.standing for entry in entries} - {""}:
        pairings = {column.pairing.partition(" over ")[0] for column in columns if column.pairing}
        how = f"; scores {pairings.pop() if len(pairings) == 1 else 'paired where they can be'}" if pairings else ""
        yield f"+ better, - worse, = not significantly different from softmax (p < 0.05, Holm{how})"
        if any(column.is_of_one_training for column in columns):
            yield "where there is one seed, marks lack the spread of training (see --seeds 0,1,2)"
    headings = "".join("".join(column.heading) for column in columns)
    signs = [f"{sign} {way} is better" for sign, way in (("↑", "higher"), ("↓", "lower")) if sign in headings]
    if any(model not in column.entries for column in columns for model in table.models):
        signs.append("– not measured")
    if any("OOM" in entry.text for entry in entries):
        signs.append("OOM: out of memory")
    if signs:
        yield ", ".join(signs)
    for kind, own in grouped(columns, lambda column: column.kind).items():
        if kind in _MEANINGS:
            metrics = ", ".join(dict.fromkeys(_metric(column) for column in own))
            yield _MEANINGS[kind].format(metrics=metrics)
    if any(
        column.kind == "crossover" and "undecided" in (e.text for e in column.entries.values()) for column in columns
    ):
        yield "undecided: the measurements cannot tell"
    if "not quiet" in {entry.text for entry in entries}:
        yield "not quiet: other work slowed the machine, and the times are not compared"
    yield from _places(columns)


_MEANINGS: Mapping[str, str] = {
    "group": "% of softmax: the sum of a group's scores over that of softmax",
    "time": "time over softmax's: {metrics}",
    "memory": "memory over softmax's: {metrics}",
    "crossover": "faster from length: where it begins to take less time than softmax",
}


def _metric(column: SummaryColumn) -> str:
    rest = column.row.other_coordinates("seq_len")
    return column.row.metric + (f" ({rest})" if rest else "")


def _places(columns: Sequence[SummaryColumn]) -> Iterator[str]:
    """Backbone, recipe and scale of the tasks, and how much of the data was read."""
    tasks: dict[str, list[Conditions]] = grouped(
        dict.fromkeys(column.comparison for column in columns), lambda where: where.section
    )
    for section, own in tasks.items():
        yield f"{section}: {', '.join(dict.fromkeys(where.task for where in own))}"

"""Every table of a run in the terminal: as many columns side by side as fit, down to 80 characters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..record import Record
from ..stats.evidence import Scores, no_scores
from ..tables.aggregate import group_seeds, rows_of_groups
from ..tables.notes import percent_notes
from ..tables.tables import MAIN, Column, Entry, Markup, Table, sections

if TYPE_CHECKING:
    from rich.console import Console

_WIDE = 120
_LABEL_SHARE = 4
_PADDING = 2
_MARKUP = Markup(str, best="{}", stderr=" ±{}", rank="")


def print_leaderboard(records: Iterable[Record], console: Console, scores: Scores = no_scores) -> None:
    """Prints every table of the leaderboard; colours follow the console, which honours NO_COLOR.

    A table that is wider than the console continues below with its remaining columns. Percentages of softmax's score
    are shown from 120 characters on. Below the tables stand how models were compared, and what percentages are of.
    """
    from rich.text import Text

    groups = group_seeds(records)
    found = sections(rows_of_groups(groups, scores), percent_notes(groups))
    if not found:
        console.print("No results yet.")
    for section in found:
        console.print(Text(section.title, style="bold"))
        for table in section.tables + section.secondary:
            if table.title != MAIN:
                console.print(Text(table.title, style="italic"))
            for columns in _chunks(table, console.width):
                _print_columns(table, columns, console)
        for note in section.notes:
            console.print(Text(note))
        if section.notes:
            console.print()


def _print_columns(table: Table, columns: Sequence[int], console: Console) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, show_edge=False)
    drawn.add_column("model", overflow="fold", max_width=console.width // _LABEL_SHARE)
    for i in columns:
        drawn.add_column(Text(_heading(table.columns[i])), justify="right", no_wrap=True, overflow="fold")
    for model, cells in table.rows:
        texts = (Text(_text(cells[i], console.width), _style(cells[i])) for i in columns)
        drawn.add_row(Text(model), *texts)
    console.print(drawn)
    console.print()


def _chunks(table: Table, width: int) -> Iterator[list[int]]:
    """Indices of the columns that stand side by side."""
    label = min(width // _LABEL_SHARE, max((len(model) for model, _ in table.rows), default=0))
    chunk: list[int] = []
    used = label
    for i in range(len(table.columns)):
        texts = [*_heading(table.columns[i]).split("\n"), *(_text(cells[i], width) for _, cells in table.rows)]
        need = _PADDING + max(map(len, texts))
        if chunk and used + need > width:
            yield chunk
            chunk, used = [], label
        chunk.append(i)
        used += need
    if chunk:
        yield chunk


def _heading(column: Column) -> str:
    return f"{column.label}\n{column.detail}" if column.detail else column.label


def _text(entry: Entry, width: int) -> str:
    return _MARKUP.entry(entry if width >= _WIDE else replace(entry, percent=""))


def _style(entry: Entry) -> str:
    return "red" if entry.failed else "bright_black" if entry.pale else "bold green" if entry.ranking.is_best else ""

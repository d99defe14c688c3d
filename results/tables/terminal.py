"""The leaderboard in the terminal: as many columns side by side as fit, down to 80 characters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ..record import Record
from .aggregate import leaderboard_rows
from .tables import Entry, Table, sections

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_WIDE = 120
_LABEL_SHARE = 4
_PADDING = 2


def print_leaderboard(records: Iterable[Record], console: Console) -> None:
    """Prints every table of the leaderboard; colours follow the console, which honours NO_COLOR.

    A table that is wider than the console continues below with its remaining columns. Percentages of softmax's score
    are shown from 120 characters on.
    """
    from rich.text import Text

    found = sections(leaderboard_rows(records))
    if not found:
        console.print("No results yet.")
    for section in found:
        console.print(Text(section.title, style="bold"))
        for table in section.tables:
            if table.is_sweep:
                console.print(Text(table.title, style="italic"))
            for columns in _chunks(table, console.width):
                _print_columns(table, columns, console)


def _print_columns(table: Table, columns: Sequence[int], console: Console) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, show_edge=False)
    drawn.add_column("model", overflow="fold", max_width=console.width // _LABEL_SHARE)
    for i in columns:
        drawn.add_column(Text(_heading(table, i)), justify="right", no_wrap=True, overflow="fold")
    for model, cells in table.rows:
        drawn.add_row(Text(model), *(_drawn_cell(cells[i], console.width) for i in columns))
    console.print(drawn)
    console.print()


def _chunks(table: Table, width: int) -> Iterator[list[int]]:
    """Indices of the columns that stand side by side."""
    label = min(width // _LABEL_SHARE, max((len(model) for model, _ in table.rows), default=0))
    chunk: list[int] = []
    used = label
    for i in range(len(table.columns)):
        need = _PADDING + _column_width(table, i, width)
        if chunk and used + need > width:
            yield chunk
            chunk, used = [], label
        chunk.append(i)
        used += need
    if chunk:
        yield chunk


def _column_width(table: Table, column: int, width: int) -> int:
    texts = [*_heading(table, column).split("\n"), *(_plain_cell(cells[column], width) for _, cells in table.rows)]
    return max(map(len, texts))


def _heading(table: Table, column: int) -> str:
    heading = table.columns[column]
    return f"{heading.label}\n{heading.detail}" if heading.detail else heading.label


def _plain_cell(cell: Entry, width: int) -> str:
    parts = [cell.text, f"±{cell.stderr}" if cell.stderr else "", f"({cell.note})" if cell.note else ""]
    if width >= _WIDE and cell.percent:
        parts.insert(2, f"({cell.percent})")
    return " ".join(filter(None, parts))


def _drawn_cell(cell: Entry, width: int) -> Text:
    from rich.text import Text

    style = "red" if cell.failed else "bold green" if cell.best else ""
    return Text(_plain_cell(cell, width), style=style)

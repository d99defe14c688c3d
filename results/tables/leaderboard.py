"""The leaderboard as CSV, JSON, Markdown and LaTeX. Each is a function of the records alone, in a fixed order."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..record import Record
from .aggregate import Row as Row
from .aggregate import group_seeds, rows_of_groups
from .aggregate import leaderboard_rows as leaderboard_rows
from .aggregate import merge_runs as merge_runs
from .format import escape_markdown
from .groups import GroupScore as GroupScore
from .groups import group_scores as group_scores
from .latex import latex_tables
from .notes import section_notes
from .tables import Column, Entry, Table, sections

COLUMNS = (
    "model",
    "backbone",
    "task",
    "recipe",
    "scale",
    "metric",
    "at",
    "value",
    "stderr",
    "n",
    "unit",
    "higher_is_better",
    "seeds",
    "percent_recovered",
    "status",
)

LEGEND = (
    "± standard error; in brackets the score in percent of softmax's; raised: rank, = where it is shared, as 95 % "
    "intervals overlap; bold: best of its column."
)
"""What the tables' signs mean."""


def row_values(row: Row) -> dict[str, str | int | float | bool | None]:
    """A row under the names of `COLUMNS`."""
    sources = (row, row.comparison)
    return {name: next(getattr(source, name) for source in sources if hasattr(source, name)) for name in COLUMNS}


def leaderboard_csv(records: Iterable[Record]) -> str:
    """The rows as CSV (RFC 4180, so lines end in CRLF): numbers at full precision, None empty, true and false."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows([_csv_field(value) for value in row_values(row).values()] for row in leaderboard_rows(records))
    return text.getvalue()


def write_csv(records: Iterable[Record], path: Path) -> None:
    """Writes `leaderboard_csv` to a file as UTF-8."""
    path.write_bytes(leaderboard_csv(records).encode())


def leaderboard_json(records: Iterable[Record]) -> str:
    """The rows as a JSON list of objects; non-finite numbers are the strings `nan`, `inf` and `-inf`."""
    rows = [{k: _json_value(v) for k, v in row_values(row).items()} for row in leaderboard_rows(records)]
    return json.dumps(rows, ensure_ascii=False, indent=1) + "\n"


def leaderboard_markdown(records: Iterable[Record]) -> str:
    """The tables as GitHub-flavoured Markdown, and what there is to say beside them; the best of a column is bold."""
    groups = group_seeds(records)
    parts = ["# Leaderboard\n"]
    for section in sections(rows_of_groups(groups), section_notes(groups)):
        parts.append(f"## {escape_markdown(section.title)}\n")
        for table in section.tables:
            parts += [f"### {escape_markdown(table.title)}\n"] if table.is_sweep else []
            parts.append(_markdown_table(table))
        for table in section.secondary:
            parts += [f"### {escape_markdown(table.title)}\n", _markdown_table(table)]
        if section.notes:
            parts.append("".join(f"- {escape_markdown(note)}\n" for note in section.notes))
    if len(parts) == 1:
        parts.append("No results yet.\n")
    else:
        parts.append(f"{LEGEND}\n")
    return "\n".join(parts)


def leaderboard_latex(records: Iterable[Record]) -> str:
    """The tables as LaTeX, for `booktabs`; the best of a column is bold."""
    return latex_tables(sections(leaderboard_rows(records)), LEGEND)


def _markdown_table(table: Table) -> str:
    lines = [
        "| model | " + " | ".join(map(_markdown_heading, table.columns)) + " |",
        "|---|" + "---:|" * len(table.columns),
    ]
    lines += [
        f"| {escape_markdown(model)} | " + " | ".join(map(_markdown_cell, cells)) + " |" for model, cells in table.rows
    ]
    return "\n".join(lines) + "\n"


def _markdown_heading(column: Column) -> str:
    return escape_markdown(column.label) + (f"<br>{escape_markdown(column.detail)}" if column.detail else "")


def _markdown_cell(cell: Entry) -> str:
    text = escape_markdown(cell.text)
    text = f"**{text}**" if cell.best else text
    text += f" ± {cell.stderr}" if cell.stderr else ""
    text += f" ({cell.percent})" if cell.percent else ""
    text += f" <sup>{cell.rank}</sup>" if cell.rank else ""
    return text + (f" ({escape_markdown(cell.note)})" if cell.note else "")


def _csv_field(value: str | int | float | bool | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def _json_value(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value

"""The leaderboard as CSV, JSON, Markdown and LaTeX, each computed from the records alone, in a fixed order."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from ..foreign import format_json
from ..record import Record
from ..stats.evidence import Scores, no_scores
from .aggregate import group_seeds, leaderboard_rows, rows_of_groups
from .format import escape_markdown
from .latex import latex_tables
from .notes import percent_notes, section_notes
from .row import Row
from .tables import MAIN, Markup, Table, sections

_OF_COMPARISON = ("backbone", "task", "recipe", "scale")
_OF_ROW = ("metric", "at", "value", "stderr", "n", "unit", "higher_is_better", "seeds", "percent_recovered", "status")
COLUMNS = ("model", *_OF_COMPARISON, *_OF_ROW)

LEGEND = (
    "± standard error; in brackets the score in percent of softmax's, or the cost as a factor of it; raised: rank, 1 + "
    "the number of models that are significantly better, = where it is shared; bold: significantly better than every "
    "other model of its column. Significant: p < 0.05 after Holm's adjustment over all pairs of a column; differences "
    "are paired over the same documents and seeds wherever predictions were kept."
)
"""What the tables' signs mean."""


_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_MARKUP = Markup(escape_markdown, best="**{}**", stderr=" ± {}", rank=" <sup>{}</sup>")


def row_values(row: Row) -> dict[str, str | int | float | bool | None]:
    """A row under the names of `COLUMNS`."""
    return {name: getattr(row.comparison if name in _OF_COMPARISON else row, name) for name in COLUMNS}


def leaderboard_csv(records: Iterable[Record], scores: Scores = no_scores) -> str:  # noqa: ARG001
    """The rows as CSV (RFC 4180, so lines end in CRLF): numbers at full precision, None empty, true and false.

    A spreadsheet runs a text that begins like a formula, so such a text has an apostrophe in front.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for row in leaderboard_rows(records):
        writer.writerow(map(_field, row_values(row).values()))
    return text.getvalue()


def _field(value: str | int | float | bool | None) -> str | int | float | None:
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def leaderboard_json(records: Iterable[Record], scores: Scores = no_scores) -> str:  # noqa: ARG001
    """The rows as a JSON list of objects; non-finite numbers are the strings `nan`, `inf` and `-inf`."""
    return format_json([row_values(row) for row in leaderboard_rows(records)], indent=1) + "\n"


def leaderboard_markdown(records: Iterable[Record], scores: Scores = no_scores) -> str:
    """The tables and their notes as GitHub-flavoured Markdown; the best of a column is bold."""
    groups = group_seeds(records)
    parts = ["# Leaderboard\n"]
    for section in sections(rows_of_groups(groups, scores), section_notes(groups, scores)):
        parts.append(f"## {escape_markdown(section.title)}\n")
        for table in section.tables + section.secondary:
            if table.title != MAIN:
                parts.append(f"### {escape_markdown(table.title)}\n")
            parts.append(markdown_table(table))
        if section.notes:
            parts.append("".join(f"- {escape_markdown(note)}\n" for note in section.notes))
    parts.append("No results yet.\n" if len(parts) == 1 else f"{LEGEND}\n")
    return "\n".join(parts)


def leaderboard_latex(records: Iterable[Record], scores: Scores = no_scores) -> str:
    """The tables as LaTeX, for `booktabs`, with what percentages are of; the best of a column is bold."""
    groups = group_seeds(records)
    return latex_tables(sections(rows_of_groups(groups, scores), percent_notes(groups)), LEGEND)


def markdown_table(table: Table, first: str = "model") -> str:
    """A table as Markdown; `first` heads the column of its rows' labels."""
    headings = ("<br>".join(map(escape_markdown, filter(None, (each.label, each.detail)))) for each in table.columns)
    lines = [(first, *headings)]
    lines += [(escape_markdown(model), *map(_MARKUP.entry, cells)) for model, cells in table.rows]
    head, *body = (f"| {' | '.join(line)} |\n" for line in lines)
    return "".join((head, "|---|", "---:|" * len(table.columns), "\n", *body))

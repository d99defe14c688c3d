r"""The leaderboard's tables in LaTeX, in the style of `booktabs`, the only package that they need."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from .tables import Column, Markup, Section, Table

_MATH = {"↑": "uparrow", "↓": "downarrow", "±": "pm", "·": "cdot"}
_ASCII = {"~": "tilde", "^": "circum", "`": "grave"}
_TEXT = {"\\": "backslash", "<": "less", ">": "greater", "|": "bar", '"': "quotedbl", "'": "quotesingle", "–": "endash"}
_ESCAPES = str.maketrans(
    {letter: f"\\{letter}" for letter in "{}$&%#_"}
    | {letter: rf"$\{name}$" for letter, name in _MATH.items()}
    | {letter: rf"\textascii{name}{{}}" for letter, name in _ASCII.items()}
    | {letter: rf"\text{name}{{}}" for letter, name in _TEXT.items()}
    | {"…": r"\ldots{}"}
)
r"""Characters that LaTeX reads as commands or ligatures, or cannot print; `\textquotedbl` needs the encoding T1."""

_DASHES = re.compile("-(?=-)")
"""Two hyphens in a row would become a dash."""

_HEADER = "% Needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}.\n"


def escape_latex(text: str) -> str:
    """One line of LaTeX that shows `text` as it is; a control character becomes a space."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return _DASHES.sub("-{}", " ".join(printable.split()).translate(_ESCAPES))


def latex_tables(sections: Sequence[Section], legend: str) -> str:
    """Every table of every section as a `table` environment.

    A caption ends with the legend, that of a main or sweep table also with the section's notes: what percentages are of
    must travel with the table.
    """
    parts = [_HEADER]
    for section in sections:
        said = " ".join((legend, *section.notes))
        parts += [_table(section, table, said) for table in section.tables]
        parts += [_table(section, table, legend) for table in section.secondary]
    return "\n".join(parts if len(parts) > 1 else [*parts, "% No results yet.\n"])


def _table(section: Section, table: Table, legend: str) -> str:
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape_latex(section.title)}: {escape_latex(table.title)}. {escape_latex(legend)}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        *_headings(table.columns),
        r"\midrule",
        *(_line(escape_latex(model), map(_MARKUP.entry, cells)) for model, cells in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _headings(columns: Sequence[Column]) -> list[str]:
    labels = _line("model", (escape_latex(column.label) for column in columns))
    details = _line("", (escape_latex(column.detail) for column in columns))
    return [labels, details] if any(column.detail for column in columns) else [labels]


def _line(first: str, others: Iterable[str]) -> str:
    return " & ".join((first, *others)) + r" \\"


_MARKUP = Markup(escape_latex, best=r"\textbf{{{}}}", stderr=r" $\pm$ {}", rank=r"\,$^{{{}}}$")

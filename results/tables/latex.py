r"""The leaderboard's tables in LaTeX, in the style of booktabs, which is the one package that they need."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .tables import Column, Entry, Section, Table

_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "&": r"\&",
        "%": r"\%",
        "#": r"\#",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",
        "`": r"\textasciigrave{}",
        "'": r"\textquotesingle{}",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "±": r"$\pm$",
        "–": r"\textendash{}",
        "·": r"$\cdot$",
        "…": r"\ldots{}",
    }
)
r"""Everything that LaTeX reads as a command, a ligature or not at all; `\textquotedbl` needs the encoding T1."""

_DASHES = re.compile("-(?=-)")
"""Two hyphens in a row would become a dash."""

_HEADER = "% Needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}.\n"


def escape_latex(text: str) -> str:
    """One line of LaTeX that shows `text` as it is; a control character becomes a space."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return _DASHES.sub("-{}", " ".join(printable.split()).translate(_ESCAPES))


def latex_tables(sections: Sequence[Section], legend: str) -> str:
    """Every table of every section as a `table` environment; the legend closes each caption."""
    parts = [_HEADER]
    for section in sections:
        parts += [_table(section, table, legend) for table in section.tables + section.secondary]
    return "\n".join(parts if len(parts) > 1 else [_HEADER, "% No results yet.\n"])


def _table(section: Section, table: Table, legend: str) -> str:
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape_latex(section.title)}: {escape_latex(table.title)}. {escape_latex(legend)}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        *_headings(table.columns),
        r"\midrule",
        *(" & ".join((escape_latex(model), *map(_cell, cells))) + r" \\" for model, cells in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _headings(columns: Sequence[Column]) -> list[str]:
    labels = " & ".join(("model", *(escape_latex(column.label) for column in columns))) + r" \\"
    if not any(column.detail for column in columns):
        return [labels]
    return [labels, " & ".join(("", *(escape_latex(column.detail) for column in columns))) + r" \\"]


def _cell(cell: Entry) -> str:
    text = escape_latex(cell.text)
    text = rf"\textbf{{{text}}}" if cell.best else text
    text += rf" $\pm$ {escape_latex(cell.stderr)}" if cell.stderr else ""
    text += f" ({escape_latex(cell.percent)})" if cell.percent else ""
    text += rf"\,$^{{{cell.rank}}}$" if cell.rank else ""
    return text + (f" ({escape_latex(cell.note)})" if cell.note else "")

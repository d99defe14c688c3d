"""The paper's artefacts as one page: values, and the same as Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..reference.printed import MARKS_LEGEND
from ..tables.format import escape_markdown
from ..tables.latex import escape_latex, latex_tables
from ..tables.leaderboard import markdown_table
from ..tables.tables import Section, Table

LEGEND = (
    f"Lines `paper` hold the paper's numbers. {MARKS_LEGEND} A letter behind `row` or `metric` stands where it is less "
    "sure than the numbers that the row is in this table, or that this is the metric. Lines `here` hold ours: ± "
    "standard error over seeds, or that of one seed; in brackets percent of softmax's score; raised: rank, 1 + the "
    "number of models that are significantly better; bold: significantly better than every other model of its column."
)
"""What the signs of the tables mean."""


@dataclass(frozen=True)
class Difference:
    """One line of what differed between the paper's measurement and ours.

    Attributes:
        what: Such as `backbone`.
        paper: What a source says of the paper's; empty if none does.
        here: Ours.
        verdict: `same`, `different` or `not known`.
    """

    what: str
    paper: str
    here: str
    verdict: str


@dataclass(frozen=True)
class Figure:
    """A plot of the page: title, name of its files without suffix, SVG text."""

    title: str
    name: str
    svg: str


@dataclass(frozen=True)
class ArtefactPart:
    """One artefact.

    Attributes:
        id: Such as `table-7`.
        title: What it shows.
        tables: The paper's numbers beside ours.
        differences: What differed.
        claims: The claims that it carries, judged.
        figures: Its plots.
        notes: Sentences about it, gaps among them.
    """

    id: str
    title: str
    tables: tuple[Table, ...] = ()
    differences: tuple[Difference, ...] = ()
    claims: Table | None = None
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        """Its id and title as one line."""
        return f"{self.id.replace('-', ' ').capitalize()}: {self.title}"


@dataclass(frozen=True)
class PaperPage:
    """The page: what it is of, the claims at its top, and its artefacts."""

    title: str
    claims: Table | None
    parts: tuple[ArtefactPart, ...]


def paper_markdown(page: PaperPage, figures: str = "figures") -> str:
    """The page as GitHub-flavoured Markdown.

    Args:
        page: The page.
        figures: Folder of the figures' files, as the page's links name it.
    """
    parts = [f"# {escape_markdown(page.title)}\n"]
    if page.claims is not None:
        parts += [f"## {escape_markdown(page.claims.title)}\n", markdown_table(page.claims, "claim")]
    for part in page.parts:
        parts.append(f"## {escape_markdown(part.heading)}\n")
        for table in part.tables:
            parts += [f"### {escape_markdown(table.title)}\n", markdown_table(table)]
        if part.differences:
            parts.append(_markdown_differences(part.differences))
        if part.claims is not None:
            parts.append(markdown_table(part.claims, "claim"))
        parts += [f"![{escape_markdown(figure.title)}]({figures}/{figure.name}.svg)\n" for figure in part.figures]
        if part.notes:
            parts.append("".join(f"- {escape_markdown(note)}\n" for note in part.notes))
    return "\n".join((*parts, f"{LEGEND}\n"))


def _markdown_differences(differences: Sequence[Difference]) -> str:
    lines = [
        "| what | paper | here | |\n|---|---|---|---|\n",
        *(
            f"| {' | '.join(map(escape_markdown, (d.what, d.paper or 'not known', d.here, d.verdict)))} |\n"
            for d in differences
        ),
    ]
    return "".join(lines)


def paper_latex(page: PaperPage) -> str:
    """The tables as LaTeX, for `booktabs`, and the figures as `\\includegraphics` of their PNG files."""
    sections = [
        Section(part.heading, (*part.tables, *(table for table in (part.claims,) if table is not None)))
        for part in page.parts
    ]
    figures = [
        "\n".join((
            r"\begin{figure}",
            r"\centering",
            rf"\includegraphics[width=\linewidth]{{figures/{figure.name}.png}}",
            rf"\caption{{{escape_latex(part.heading)}: {escape_latex(figure.title)}}}",
            r"\end{figure}",
            "",
        ))
        for part in page.parts
        for figure in part.figures
    ]  # fmt: skip
    return "\n".join((latex_tables(sections, LEGEND), *figures))

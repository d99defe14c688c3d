"""The report as one HTML file that needs nothing else: no network, tables to sort and filter, plots inlined.

Everything that comes from records is escaped by the template or set as text by the page's script, and the page's policy
lets no other script run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..plots.inline import inline_svg
from ..record import STATUSES, Record
from ..stats.evidence import Scores, no_scores
from ..store import CorruptCell, record_order
from ..tables.aggregate import group_seeds, rows_of_groups
from ..tables.confounders import confounders
from ..tables.format import format_status
from ..tables.notes import section_notes
from ..tables.row import grouped
from ..tables.tables import Entry, sections
from .assets import assets
from .cells import Samples, pack_cells

if TYPE_CHECKING:
    from markupsafe import Markup

MAX_PLOT_BYTES = 700_000
"""Most bytes that plots may take of a page; plots that do not fit are left out and counted."""

MOST_WARNINGS = 6
POLL_MS = 2_000

_TEMPLATE = Path(__file__).with_name("template.html")
_WIDE_PT = 560


@dataclass(frozen=True)
class ReportContent:
    """What a report shows.

    Attributes:
        records: The cells.
        title: Heading, such as the run's name.
        corrupt: Cell files that hold no record; the page names them at its top.
        messages: Further warnings for the top, such as cells that are in two runs.
        samples: The first predictions of cells, by the cell's id.
        version: The server's name for this state of the run; empty for a page that follows no run.
        scores: Gives the records' metrics document by document, for comparisons over the same documents.
    """

    records: Sequence[Record]
    title: str = "hedgebench"
    corrupt: Sequence[CorruptCell] = ()
    messages: Sequence[str] = ()
    samples: Samples = field(default_factory=dict)
    version: str = ""
    scores: Scores = no_scores


def report_html(content: ReportContent, plots: Sequence[tuple[str, str]]) -> str:
    """The report.

    Args:
        content: What to show.
        plots: Title and SVG text of every plot.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    records = sorted(content.records, key=record_order)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"status": format_status, "drawn": drawn_entry}
    counts = Counter(record.status for record in records)
    shown = _fitting(plots)
    files = assets()
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=content.title,
        version=content.version,
        every_ms=POLL_MS,
        policy=files.policy + ("; connect-src 'self'" if content.version else ""),  # a live page polls the server
        assets={name: Markup(getattr(files, name)) for name in ("style", "theme", "script")},
        count=len(records),
        statuses=[(status, counts[status]) for status in STATUSES if counts[status]],
        warnings=[*([files.note] if files.note else []), *_warnings(content, records)],
        most_warnings=MOST_WARNINGS,
        sections=_sections(records, content.scores),
        sorts=not files.note,
        plots=[(name, Markup(svg), _is_wide(svg)) for name, svg in shown],
        plots_left_out=len(plots) - len(shown),
        packed=pack_cells(records, content.samples),
    )


def _sections(records: Sequence[Record], scores: Scores) -> list[Mapping[str, Any]]:
    """The leaderboard's sections, each with the differences between its models."""
    groups = group_seeds(records)
    found = grouped(confounders(groups), lambda each: each.comparison.section)
    boards = sections(rows_of_groups(groups, scores), section_notes(groups, scores))
    return [vars(board) | {"differences": found.get(board.title, [])} for board in boards]


def drawn_entry(cell: Entry) -> Markup:
    """The HTML of a table's cell; for thousands of cells the template would take ten times as long."""
    from markupsafe import Markup, escape

    kind = "good" if cell.ranking.is_best else "bad" if cell.failed else ""
    aside = " ".join(form.format(text) for form, text in (("± {}", cell.stderr), ("({})", cell.percent)) if text)
    warning = "detail" if cell.pale else "detail bad"
    parts = [
        f'<b class="{kind}">{escape(cell.text)}</b>' if kind else escape(cell.text),
        f" <small>{escape(aside)}</small>" if aside else "",
        f" <sup>{escape(cell.ranking.rank)}</sup>" if cell.ranking.rank else "",
        f'<span class="{warning}">{escape(cell.note)}</span>' if cell.note else "",
    ]
    mark = "pale" if cell.pale else cell.ranking.standing
    attributes = f' class="{mark}"' if mark else ""
    order = "" if cell.order is None else f"{cell.order:.9g}"
    return Markup(f'<td{attributes} data-order="{order}">{"".join(parts)}</td>')


def _warnings(content: ReportContent, records: Sequence[Record]) -> Iterator[str]:
    """Warnings for a reader of the tables: unreadable files, failures, and every fallback that was noted."""
    for cell in content.corrupt:
        yield f"{cell.path.name} cannot be read and is left out: {cell.reason}"
    yield from content.messages
    for record in records:
        if record.status != "ok":
            reason = f": {record.error.type}: {record.error.message}" if record.error else ""
            yield f"{record.model} on {record.task}, seed {record.seed}: {format_status(record.status)}{reason}"
    noted = ((record, note) for record in records for note in record.notes)
    for (task, note), pairs in grouped(noted, lambda pair: (pair[0].task, pair[1])).items():
        yield f"{', '.join(dict.fromkeys(record.model for record, _ in pairs))} on {task}: {note}"


def _fitting(plots: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The plots for which a page has room, as elements."""
    shown: list[tuple[str, str]] = []
    size = 0
    for i, (name, svg) in enumerate(plots):
        element = inline_svg(svg, i)
        if size + len(element) <= MAX_PLOT_BYTES:
            shown.append((name, element))
            size += len(element)
    return shown


def _is_wide(svg: str) -> bool:
    """Whether a plot needs the width of the page to be legible."""
    _, _, rest = svg.partition('width="')
    return float(rest.partition("pt")[0] or 0) > _WIDE_PT

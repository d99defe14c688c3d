"""The report as one HTML file that needs nothing else: no network, tables to sort and filter, plots inlined.

It opens with what was found, in words and one picture; a section for each task follows, and then every cell. Everything
that comes from records is escaped by the template or set as text by the page's script, and the page's policy lets no
other script run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..plots.inline import inline_svg
from ..plots.make import Drawing
from ..record import STATUSES, Record
from ..stats.evidence import Samples as Predictions
from ..stats.evidence import Scores, no_scores
from ..store import CorruptCell, record_order
from ..tables.aggregate import group_seeds, rows_of_groups
from ..tables.findings import findings_of
from ..tables.format import format_status
from ..tables.summary import Summary, summary
from ..tables.tables import Entry
from .assets import assets
from .cells import Samples, pack_cells
from .sections import TaskSection, TaskText, family, leading_plot, summary_table, task_sections, warnings_of

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
        tasks: What is known of the tasks, by name; a task that is absent has no sentence.
        predictions: Gives the records' predictions, for plots of attention; None draws none of them.
    """

    records: Sequence[Record]
    title: str = "hedgebench"
    corrupt: Sequence[CorruptCell] = ()
    messages: Sequence[str] = ()
    samples: Samples = field(default_factory=dict)
    version: str = ""
    scores: Scores = no_scores
    tasks: Mapping[str, TaskText] = field(default_factory=dict)
    predictions: Predictions | None = None


def report_html(content: ReportContent, plots: Sequence[Drawing]) -> str:
    """The report.

    Args:
        content: What to show.
        plots: Every plot.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    records = sorted(content.records, key=record_order)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"status": format_status, "drawn": drawn_entry}
    counts = Counter(record.status for record in records)
    pictures = _Pictures()
    lead = leading_plot(plots)
    opening = None if lead is None else pictures.element(lead)
    groups = group_seeds(records)
    boards = task_sections(groups, content.scores, content.tasks, [plot for plot in plots if plot is not lead])
    places = {board.name: place for place, board in enumerate(boards, start=1)}
    rows = rows_of_groups(groups, content.scores)
    overview = summary(rows)
    found = [(each.text, places[family(each.comparison.task)]) for each in findings_of(overview, rows)]
    files = assets()
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=content.title,
        version=content.version,
        every_ms=POLL_MS,
        policy=files.policy + ("; connect-src 'self'" if content.version else ""),  # a live page polls the server
        assets={name: Markup(getattr(files, name)) for name in ("style", "theme", "script")},
        count=len(records),
        statuses=[(status, counts[status]) for status in STATUSES if counts[status]],
        warnings=[*([files.note] if files.note else []), *_warnings(content, records, overview)],
        most_warnings=MOST_WARNINGS,
        findings=found,
        lead=opening,
        overview=summary_table(overview) if len(overview.columns) > 1 else None,
        sorts=not files.note,
        sections=_with_pictures(boards, pictures),
        plots_left_out=pictures.left_out,
        packed=pack_cells(records, content.samples),
    )


class _Pictures:
    """Turns plots into elements of the page, as long as there is room.

    Attributes:
        left_out: Plots for which there was none.
    """

    def __init__(self) -> None:
        self.left_out = 0
        self._count = self._size = 0

    def element(self, plot: Drawing) -> Mapping[str, Any] | None:
        """The plot's title, SVG element, and whether it needs the width of the page; None without room for it."""
        from markupsafe import Markup

        svg = inline_svg(plot.svg, self._count)
        if self._size + len(svg) > MAX_PLOT_BYTES:
            self.left_out += 1
            return None
        self._count += 1
        self._size += len(svg)
        return {"title": plot.title, "svg": Markup(svg), "is_wide": _is_wide(svg)}


def _with_pictures(sections: Sequence[TaskSection], pictures: _Pictures) -> list[Mapping[str, Any]]:
    """The sections with elements in place of plots; those that are seen at once get their room before folded ones."""
    found = [dict(vars(section)) for section in sections]
    for name in ("plots", "folded"):
        for section in found:
            elements = map(pictures.element, section[name])
            section[name] = [element for element in elements if element is not None]
    return list(found)


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


def _warnings(content: ReportContent, records: Sequence[Record], table: Summary) -> Iterator[str]:
    """What a reader has to know first: unreadable files, failures, and every fallback that was noted."""
    for cell in content.corrupt:
        yield f"{cell.path.name} cannot be read and is left out: {cell.reason}"
    yield from content.messages
    for record in records:
        if record.status != "ok":
            reason = f": {record.error.type}: {record.error.message}" if record.error else ""
            yield f"{record.model} on {record.task}, seed {record.seed}: {format_status(record.status)}{reason}"
    yield from warnings_of(records, table)


def _is_wide(svg: str) -> bool:
    """Whether a plot needs the width of the page to be legible."""
    _, _, rest = svg.partition('width="')
    return float(rest.partition("pt")[0] or 0) > _WIDE_PT

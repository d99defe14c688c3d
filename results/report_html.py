"""The report as one HTML file that needs nothing else: no network, no script, plots inlined.

Everything that comes from records is escaped by the template.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from .aggregate import format_at, leaderboard_rows
from .conversion import branch_notes
from .format import format_arrow, format_status
from .record import STATUSES, Record
from .store import CorruptCell, record_order
from .tables import sections

_TEMPLATE = Path(__file__).with_name("report_template.html")
_SVG_REFERENCE = re.compile(r'(\bid="|\burl\(#|\bhref="#)')


def report_html(
    records: Iterable[Record],
    plots: Iterable[tuple[str, str]],
    title: str = "hedgebench",
    corrupt: Sequence[CorruptCell] = (),
) -> str:
    """The report.

    Args:
        records: What to show.
        plots: Title and SVG text of every plot.
        title: Heading, such as the run's name.
        corrupt: Files that should have held records; they are named at the top.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    records = sorted(records, key=record_order)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"status": format_status, "arrow": format_arrow, "at": format_at, "facts": _facts}
    counts = Counter(record.status for record in records)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        records=records,
        statuses=[(status, counts[status]) for status in STATUSES if counts[status]],
        warnings=list(_warnings(records, corrupt)),
        sections=sections(leaderboard_rows(records), branch_notes(records)),
        plots=[(name, Markup(_inline(svg, i))) for i, (name, svg) in enumerate(plots)],
    )


def _warnings(records: Sequence[Record], corrupt: Sequence[CorruptCell]) -> Iterator[str]:
    """What could mislead a reader of the tables: unreadable files, failures, and every fallback that was noted."""
    for cell in corrupt:
        yield f"{cell.path.name} cannot be read and is left out: {cell.reason}"
    for record in records:
        if record.status != "ok":
            reason = f": {record.error.type}: {record.error.message}" if record.error else ""
            yield f"{record.model} on {record.task}, seed {record.seed}: {format_status(record.status)}{reason}"
    notes = Counter((record.model, record.task, note) for record in records for note in record.notes)
    for model, task, note in notes:
        yield f"{model} on {task}: {note}"


def _facts(record: Record) -> Iterator[tuple[str, str]]:
    """What ran and on which data, as name and value."""
    yield "cell", record.cell_id
    yield "run", record.run_id
    for kernel in record.kernels:
        yield f"kernel in {kernel.phase}", f"{kernel.form} ({kernel.backend})"
    if data := record.data:
        yield "data", " ".join(filter(None, (data.id, data.revision)))
        yield "data from", data.source
        yield "data fingerprint", data.fingerprint
        for split, rows in data.splits.items():
            yield f"rows of {split}", str(rows)
        for key, value in data.details.items():
            yield f"data {key}", str(value)
    for phase, seconds in record.timings_s.items():
        yield f"seconds in {phase}", f"{seconds:.3g}"


def _inline(svg: str, number: int) -> str:
    """An SVG file as an element: no prolog, and identifiers that no other plot of the page has."""
    return _SVG_REFERENCE.sub(rf"\g<1>plot{number}-", svg[svg.index("<svg") :])

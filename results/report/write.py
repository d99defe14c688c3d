"""Writes the report of a run: tables, plots and one HTML page, all computed from its records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..names import unknown_name
from ..record import Record
from ..store import RunStore
from ..tables.leaderboard import leaderboard_csv, leaderboard_json, leaderboard_latex, leaderboard_markdown

if TYPE_CHECKING:
    from .html import ReportContent


def write_report(store: RunStore) -> Path:
    """Writes leaderboard.csv, leaderboard.md, leaderboard.json, the plots and report.html into a run's folder.

    Returns:
        The HTML page.

    Raises:
        StoreError: A file cannot be written.
    """
    from ..plots.make import write_plots
    from .html import ReportContent, report_html

    loaded = store.records()
    page = store.root / "report.html"
    store.create()
    for format in ("csv", "md", "json"):
        store.write_text(store.root / f"leaderboard.{format}", RENDERERS[format](loaded.records))
    plots = write_plots(loaded.records, store.plots, lambda record: _predictions(store, record))
    samples = sample_previews(store, loaded.records)
    content = ReportContent(loaded.records, store.root.resolve().name, loaded.corrupt, samples=samples)
    store.write_text(page, report_html(content, plots))
    return page


def sample_previews(store: RunStore, records: Iterable[Record]) -> dict[str, list[dict[str, str]]]:
    """The first predictions of each cell that has any, by the cell's id.

    Raises:
        StoreError: A file of predictions cannot be read.
    """
    from .cells import preview

    kept = {path.stem for path in store.samples.glob("*.jsonl")}
    wanted = (record.cell_id for record in records if record.cell_id in kept)
    return {cell_id: preview(store.read_samples(cell_id)) for cell_id in wanted}


def _predictions(store: RunStore, record: Record) -> Iterable[Mapping[str, Any]]:
    """A record's predictions; none if the run was published without them."""
    kept = (store.samples / f"{record.cell_id}.jsonl").exists()
    return store.read_samples(record.cell_id) if kept else ()


def render(records: Iterable[Record], format: str) -> str:
    """The leaderboard as text.

    Args:
        records: What to show.
        format: `md`, `csv`, `latex`, `json`, or `html` for the whole report.

    Raises:
        UnknownNameError: The format is unknown.
    """
    if format not in RENDERERS:
        raise unknown_name("format", format, RENDERERS)
    return RENDERERS[format](records)


def render_html(content: ReportContent) -> str:
    """The whole report, with its plots."""
    from ..plots.make import svg_plots
    from .html import report_html

    return report_html(content, svg_plots(content.records))


def _html(records: Iterable[Record]) -> str:
    from .html import ReportContent

    return render_html(ReportContent(list(records)))


RENDERERS: Mapping[str, Callable[[Iterable[Record]], str]] = {
    "md": leaderboard_markdown,
    "csv": leaderboard_csv,
    "latex": leaderboard_latex,
    "json": leaderboard_json,
    "html": _html,
}
"""Renderers by the name of their format."""

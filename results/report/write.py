"""Writes the report of a run: tables, plots and one HTML page, all computed from its records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ..names import unknown_name
from ..record import Record
from ..stats.evidence import Scores, kept_scores, no_scores
from ..store import RunStore
from ..tables.leaderboard import leaderboard_csv, leaderboard_json, leaderboard_latex, leaderboard_markdown
from .cells import preview
from .html import ReportContent, report_html
from .sections import TaskText


def write_report(store: RunStore, tasks: Mapping[str, TaskText] | None = None) -> Path:
    """Writes leaderboard.csv, leaderboard.md, leaderboard.json, the plots and report.html into a run's folder.

    Args:
        store: The run.
        tasks: What is known of the tasks, by name.

    Returns:
        The HTML page.

    Raises:
        StoreError: A file cannot be written.
    """
    from ..plots.make import write_plots

    loaded = store.records()
    page = store.root / "report.html"
    scores = kept_scores(lambda record: store.kept_samples(record.cell_id))
    store.create()
    for format in ("csv", "md", "json"):
        store.write_text(store.root / f"leaderboard.{format}", RENDERERS[format](loaded.records, scores))
    plots = write_plots(loaded.records, store.root / "plots", lambda record: store.kept_samples(record.cell_id))
    samples = sample_previews(store, loaded.records)
    title = store.root.resolve().name
    corrupt = (*loaded.corrupt, *store.damaged_samples(loaded.records))
    content = ReportContent(loaded.records, title, corrupt, samples=samples, scores=scores, tasks=tasks or {})
    store.write_text(page, report_html(content, plots))
    return page


def sample_previews(store: RunStore, records: Iterable[Record]) -> dict[str, list[dict[str, str]]]:
    """The first predictions of each cell that has any that can be read, by the cell's id."""
    previews = {record.cell_id: preview(store.kept_samples(record.cell_id)) for record in records}
    return {cell_id: rows for cell_id, rows in previews.items() if rows}


def render(records: Iterable[Record], format: str, scores: Scores = no_scores) -> str:
    """The leaderboard as text.

    Args:
        records: What to show.
        format: `md`, `csv`, `latex`, `json`, or `html` for the whole report.
        scores: Gives the records' metrics document by document, for comparisons over the same documents.

    Raises:
        UnknownNameError: The format is unknown.
    """
    if format not in RENDERERS:
        raise unknown_name("format", format, RENDERERS)
    return RENDERERS[format](records, scores)


def render_html(content: ReportContent) -> str:
    """The whole report, with its plots."""
    from ..plots.make import svg_plots

    return report_html(content, svg_plots(content.records, content.predictions))


def _html(records: Iterable[Record], scores: Scores) -> str:
    return render_html(ReportContent(list(records), scores=scores))


RENDERERS: Mapping[str, Callable[[Iterable[Record], Scores], str]] = {
    "md": leaderboard_markdown,
    "csv": leaderboard_csv,
    "latex": leaderboard_latex,
    "json": leaderboard_json,
    "html": _html,
}
"""Renderers by the name of their format."""

"""What a run leaves to read: tables, plots and one HTML page, all computed from its records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from .leaderboard import leaderboard_csv, leaderboard_json, leaderboard_markdown
from .names import unknown_name
from .record import Record
from .store import RunStore


def write_report(store: RunStore) -> Path:
    """Writes leaderboard.csv, leaderboard.md, leaderboard.json, the plots and report.html into a run's folder.

    Returns:
        The HTML page.

    Raises:
        StoreError: A file cannot be written.
    """
    from .plot import write_plots
    from .report_html import report_html

    loaded = store.records()
    page = store.root / "report.html"
    store.create()
    store.write_text(store.root / "leaderboard.csv", leaderboard_csv(loaded.records))
    store.write_text(store.root / "leaderboard.md", leaderboard_markdown(loaded.records))
    store.write_text(store.root / "leaderboard.json", leaderboard_json(loaded.records))
    plots = write_plots(loaded.records, store.plots)
    store.write_text(page, report_html(loaded.records, plots, store.root.resolve().name, loaded.corrupt))
    return page


def render(records: Iterable[Record], format: str) -> str:
    """The leaderboard as text.

    Args:
        records: What to show.
        format: `md`, `csv`, `json`, or `html` for the whole report.

    Raises:
        UnknownNameError: The format is unknown.
    """
    if format not in RENDERERS:
        raise unknown_name("format", format, RENDERERS)
    return RENDERERS[format](records)


def _html(records: Iterable[Record]) -> str:
    from .plot import svg_plots
    from .report_html import report_html

    records = list(records)
    return report_html(records, svg_plots(records))


RENDERERS: Mapping[str, Callable[[Iterable[Record]], str]] = {
    "md": leaderboard_markdown,
    "csv": leaderboard_csv,
    "json": leaderboard_json,
    "html": _html,
}
"""Renderers by the name of their format."""

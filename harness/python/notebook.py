"""The progress of a run in a notebook: one element under the cell, which changes as the run goes on."""

from __future__ import annotations

import html
import json
import sys
import time
from typing import Any

EVERY_S = 0.2
"""Redraws are at least this far apart."""


def is_notebook() -> bool:
    """Whether this session is a notebook's: IPython runs it, and has a kernel that a front end talks to."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class NotebookProgress:
    """Shows how many cells are done and what the others do."""

    def __init__(self) -> None:
        from IPython.display import display

        self.total = self.done = 0
        self.running: dict[str, dict[str, Any]] = {}
        self._start_s = time.monotonic()
        self._drawn_s = 0.0
        self._handle: Any = display(self, display_id=True)  # type: ignore[no-untyped-call]

    def take(self, text: str) -> None:
        """Takes an event of `runner.Tell` as JSON."""
        event: dict[str, Any] = json.loads(text)
        self.total = event.get("total", self.total) if "cell" not in event else self.total
        if (cell := event.pop("cell", None)) is not None:
            self.running.setdefault(cell, {}).update(event)
        if "status" in event:
            self.done += 1
            self.running.pop(str(cell), None)
        if "status" in event or time.monotonic() > self._drawn_s + EVERY_S:
            self._drawn_s = time.monotonic()
            self._handle.update(self)

    def __repr__(self) -> str:
        return f"{self.done} of {self.total} cells, {time.monotonic() - self._start_s:.0f} s"

    def _repr_html_(self) -> str:
        """A bar for the run, and a line for each cell that runs."""
        whole = f"{_bar(self.done, self.total)} {self}" if self.total else "preparing"
        return "<br>".join((whole, *map(_line, self.running.values())))


def _line(cell: dict[str, Any]) -> str:
    parts = [_bar(cell["done"], cell["total"])] if cell.get("total") and cell.get("done") != cell["total"] else []
    parts.append(html.escape(f"{cell.get('title', '')}: {cell.get('phase', 'starting')}"))
    if parts[1:]:
        parts.append(f"{cell['done']}/{cell['total']}" + (f", loss {cell['loss']:.3f}" if "loss" in cell else ""))
    return " ".join(parts)


def _bar(done: float, total: float) -> str:
    return f'<progress value="{done}" max="{total}"></progress>'

"""`--log`: sends cells to experiment trackers as they end. If a tracker fails, the run warns and keeps its results."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ...results.exchange.trackers import Tracker, open_tracker, send_all
from ...results.names import UsageError
from ...results.record import Record


def require_trackers(names: Iterable[str]) -> None:
    """Checks that trackers are installed.

    Raises:
        UsageError: A tracker is not installed; the message says how to install it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"{name} needs the package {name}: pip install 'hedgebench[{name}]'")


class Trackers:
    """The trackers of one run. Each is opened for the first cell, and is not called again after its first failure."""

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        self._names = names
        self._folder = folder
        self._opened: dict[str, Tracker] = {}
        self._failed: dict[str, str] = {}

    def send_cell(self, record: Record) -> None:
        """Sends a cell whose record is already written."""
        for name in self._names:
            self._try(name, lambda tracker: tracker.send_cell(record))

    def finish(self, records: Sequence[Record]) -> list[str]:
        """Sends every cell, then the report; returns a line for each tracker. No cell is sent twice.

        Args:
            records: Every record of the run, also of earlier commands.
        """
        told = []
        for name in self._names:
            place = self._try(name, lambda tracker: send_all(tracker, self._folder, records))
            if name in self._failed:
                later = f"no record is lost; send them later with: bench export {self._folder} --format {name}"
                told.append(f"warning: {name}: {self._failed[name]}; {later}")
            else:
                told.append(f"{name}: {place}")
        return told

    def _try(self, name: str, send: Callable[[Tracker], str | None]) -> str | None:
        if name in self._failed:
            return None
        try:
            if name not in self._opened:
                self._opened[name] = open_tracker(name, self._folder)
            return send(self._opened[name])
        except Exception as error:  # whatever a tracker's package raises, the run goes on
            self._failed[name] = describe(error)
            return None


def describe(error: Exception) -> str:
    """An error of a tracker's package in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"

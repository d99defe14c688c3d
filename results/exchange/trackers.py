"""The experiment trackers that runs can be sent to.

A tracker gets a copy to look at; the run's folder remains the source of every number.
"""

from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Protocol

from ..record import Record

TRACKERS: Mapping[str, str] = {
    "mlflow": "MlflowTracker",
    "tensorboard": "TensorboardTracker",
    "wandb": "WandbTracker",
}
"""Classes by tracker, each in the module of this folder with the tracker's name; an extra of that name installs it."""


class Tracker(Protocol):
    """A connection that one run is sent through. Each method may raise any error of the tracker's own package."""

    def send_cell(self, record: Record) -> None:
        """Sends one cell's parameters, metrics, curves and record; a record that was sent before is stored once."""
        ...

    def send_files(self, files: Mapping[str, Path]) -> None:
        """Sends the run's leaderboard, report and plots, by path below the run's folder."""
        ...

    def close(self) -> str:
        """Ends the connection; returns where the run can be looked at."""
        ...


def open_tracker(name: str, folder: Path) -> Tracker:
    """A connection to a tracker, one of `TRACKERS`, for the run in a folder."""
    tracker: Tracker = getattr(import_module(f".{name}", __package__), TRACKERS[name])(folder)
    return tracker


def send_all(tracker: Tracker, folder: Path, records: Iterable[Record]) -> str:
    """Sends every cell of a run and its files, and ends the connection; returns where the run can be looked at."""
    from .tracker_payload import run_files

    for record in records:
        tracker.send_cell(record)
    tracker.send_files(run_files(folder))
    return tracker.close()

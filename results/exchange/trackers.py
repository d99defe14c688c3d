"""The experiment trackers that runs can be sent to.

A tracker gets a copy to look at; the run's folder remains the source of every number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from ..record import Record
from .mlflow import MlflowTracker
from .tensorboard import TensorboardTracker
from .tracker_payload import run_files
from .wandb import WandbTracker


class Tracker(Protocol):
    """A connection that one run is sent through. Each method may raise any error of the tracker's own package."""

    def send_cell(self, record: Record) -> None:
        """Sends one cell's parameters, metrics, curves and record; a record that was sent before is not doubled."""
        ...

    def send_files(self, files: Mapping[str, Path]) -> None:
        """Sends the run's leaderboard, report and plots, by path below the run's folder."""
        ...

    def close(self) -> str:
        """Ends the connection; returns where the run can be looked at."""
        ...


TRACKERS: Mapping[str, Callable[[Path], Tracker]] = {
    "mlflow": MlflowTracker,
    "tensorboard": TensorboardTracker,
    "wandb": WandbTracker,
}
"""What opens a connection for the run in a folder, by the name of the package that it needs.

The extra of the same name installs the package.
"""


def send_all(tracker: Tracker, folder: Path, records: Iterable[Record]) -> str:
    """Sends every cell of a run and its files, and ends the connection; returns where the run can be looked at."""
    for record in records:
        tracker.send_cell(record)
    tracker.send_files(run_files(folder))
    return tracker.close()

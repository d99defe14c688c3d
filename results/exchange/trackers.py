"""The experiment trackers that runs can be sent to.

A tracker has a copy, for looking at; the run's folder stays the source of every number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..record import Record
from .mlflow import MlflowTracker
from .tensorboard import TensorboardTracker
from .tracker_payload import run_files
from .wandb import WandbTracker


class Tracker(Protocol):
    """Where one run is sent. Each method may raise whatever the tracker's own package raises."""

    def send_cell(self, record: Record) -> None:
        """Sends one cell's parameters, metrics, curves and record; a record that is there already is not doubled."""
        ...

    def send_files(self, files: Mapping[str, Path]) -> None:
        """Sends what the run left to read, by name: leaderboard, report and plots."""
        ...

    def close(self) -> str:
        """Ends the connection; gives where the run can be looked at."""
        ...


@dataclass(frozen=True)
class TrackerKind:
    """One of the trackers there are.

    Attributes:
        package: The module it needs; the extra of the same name installs it.
        open: Opens it for the run in a folder.
    """

    package: str
    open: Callable[[Path], Tracker]


TRACKERS: Mapping[str, TrackerKind] = {
    "mlflow": TrackerKind("mlflow", MlflowTracker),
    "tensorboard": TrackerKind("tensorboard", TensorboardTracker),
    "wandb": TrackerKind("wandb", WandbTracker),
}
"""Trackers by name."""


def send_all(tracker: Tracker, folder: Path, records: Iterable[Record]) -> str:
    """Sends every cell of a run and its report, and ends the connection; gives where the run can be looked at."""
    for record in records:
        tracker.send_cell(record)
    tracker.send_files(run_files(folder))
    return tracker.close()

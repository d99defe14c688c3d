"""What a worker is asked to do, and how it tells where it stands."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...results.record import DataIdentity
from ..cell import Cell


@dataclass(frozen=True)
class Request:
    """What a worker is asked to do.

    Attributes:
        cell: The cell.
        run_id: Name of the run.
        main_metric: The metric that ranks models on the task.
        mirror: Folder of data and models, or None.
        cache: Folder for what we derive from data.
        offline: Never touch the network.
        threads: Threads that torch may use.
        auto_batch: Halve the evaluation batch on out-of-memory until it fits.
        checkpoints: Folder of files that training resumes from and writes to.
        artifacts: Folder of what the stages of a recipe leave for other cells.
        save_to: Folder to write the converted model to; empty to write none.
        trust_remote_code: Let code from a checkpoint run.
        log_samples: Keep inputs and texts beside the predictions.
        point: The fields of the one point of a sweep to measure; None for the whole cell.
    """

    cell: Cell
    run_id: str
    main_metric: str
    mirror: str | None
    cache: str
    offline: bool
    threads: int
    auto_batch: bool
    checkpoints: str
    artifacts: str
    save_to: str = ""
    trust_remote_code: bool = False
    log_samples: bool = False
    point: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The request as JSON-ready data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Request:
        """The request that `to_json` gave."""
        cell = dict(data["cell"])
        cell["data"] = DataIdentity(**cell["data"])
        cell["settings"] = {
            group: {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
            for group, values in cell["settings"].items()
        }
        return cls(**{**data, "cell": Cell(**cell)})


@dataclass
class Progress:
    """Where a cell stands, told to the parent."""

    send: Callable[[Mapping[str, Any]], None]
    last_s: float = 0.0

    def phase(self, name: str) -> None:
        """A phase begins."""
        self.send({"phase": name})

    def steps(self, done: int, total: int, loss: float) -> None:
        """Training has come this far; told at most ten times a second."""
        now = time.monotonic()
        if done == total or now - self.last_s > 0.1:
            self.last_s = now
            self.send({"phase": "train", "done": done, "total": total, "loss": loss})

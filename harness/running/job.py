"""The job of a worker, which is one cell or one point of a sweep, and its outcome."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from ...adapters.base import Settings
from ...results.atomic import replacing
from ...results.foreign import ForeignJsonError, convert, parse_json
from ...results.record import SCHEMA_VERSION, Failure, Record, Status, from_json, to_json
from ...tasks.base import Row, Sources, Task
from ...tasks.efficiency.points import Point
from ..cell import Cell, PlannedCell
from ..config import RunConfig
from ..environment import host_environment
from ..recipes import RECIPES

Message: TypeAlias = Mapping[str, Any]
"""Progress of a cell: its `phase`; if it counts, `done` of `total` (None if not known) in a `unit`, `it` for training,
`rows` or `points`; the `loss` of training; and what a sweep is `doing`, its mode and length."""


NEED, PEAK = "memory_need_bytes", "memory_peak_bytes"
"""Facts of a record's environment: the memory that a cell was estimated to need, and the most that its process held
above what it began with."""


@dataclass(frozen=True)
class CellJob:
    """A planned cell and the way to run it; pickled to the worker's process.

    Attributes:
        planned: The cell.
        config: Configuration of the run.
        root: Folder of the run, absolute.
        sources: Sources of data and weights.
        threads: Threads that torch may use.
        timeout_s: Time limit of the cell, or of the point; None for none.
        point: The one point of a sweep to measure; None for the whole cell.
        model_key: Jobs with equal keys measure the same model, unchanged, so that one process may measure them one
            after another with the weights loaded once; None for a job that needs a process of its own.
        need_bytes: Memory that the cell is estimated to need; None if that is not known.
    """

    planned: PlannedCell
    config: RunConfig
    root: Path
    sources: Sources
    threads: int
    timeout_s: float | None = None
    point: Point | None = None
    model_key: str | None = None
    need_bytes: int | None = None

    @property
    def cell(self) -> Cell:
        """The cell."""
        return self.planned.cell

    @property
    def task(self) -> Task:
        """The cell's task."""
        return self.planned.task

    @property
    def task_settings(self) -> Settings:
        """The settings of the cell's task."""
        return self.cell.settings["task"]

    @property
    def devices(self) -> int:
        """Devices that share the batches of the cell's training; 1 if it trains nothing."""
        return self.config.devices if RECIPES[self.cell.recipe].trains else 1

    @property
    def checkpoints(self) -> Path:
        """Folder of the files that an interrupted cell resumes from."""
        return self.root / "checkpoints" / self.cell.key

    def record(self, status: Status, error: Failure | None) -> Record:
        """The record of the cell without numbers."""
        cell = self.cell
        environment = {**host_environment(), "device": cell.device, "dtype": cell.dtype}
        if self.devices > 1:
            environment["devices"] = self.devices
        if self.need_bytes is not None:
            environment[NEED] = self.need_bytes
        return Record(
            schema_version=SCHEMA_VERSION,
            run_id=self.root.name,
            cell_id=cell.key,
            model=cell.model,
            backbone=cell.backbone,
            task=cell.task,
            recipe=cell.recipe,
            scale=cell.scale,
            seed=cell.seed,
            status=status,
            main_metric=self.task.info.main_metric,
            metrics=(),
            settings=cell.flat_settings(),
            timings_s={},
            kernels=(),
            data=cell.data if cell.data.id else None,
            environment=environment | ({"own_code": cell.own_code} if cell.own_code else {}),
            limit=cell.limit,
            peer_key=cell.peer_key,
            error=error,
        )


@dataclass(frozen=True)
class CellOutcome:
    """The outcome of a cell, or of one point of a sweep.

    Attributes:
        record: Its record, which states the error if there is no result.
        rows: Its predictions; empty if there are none.
        log: Output of its process.
    """

    record: Record
    rows: list[Row]
    log: str = ""

    def with_memory(self, peak_bytes: int) -> CellOutcome:
        """The outcome, whose record has the most memory that the cell's process held above what it began with."""
        environment = {**self.record.environment, PEAK: peak_bytes}
        return replace(self, record=replace(self.record, environment=environment))

    def write(self, path: Path) -> None:
        """Writes record and rows to a JSON file, wholly or not at all."""
        with replacing(path) as file:
            file.write(json.dumps({"record": to_json(self.record), "rows": self.rows}).encode())

    @classmethod
    def read(cls, path: Path, log: str = "") -> CellOutcome:
        """The outcome that `write` wrote.

        Raises:
            ForeignJsonError: The file is damaged.
        """
        kept = convert(parse_json(path.read_bytes()), dict[str, Any], path.name)
        if not isinstance(kept.get("rows"), list) or not isinstance(kept.get("record"), dict):
            raise ForeignJsonError(f"{path.name} lacks its record or its rows")
        return cls(from_json(kept["record"]), kept["rows"], log)

"""A cell that is measured point by point: each point in a process of its own, its row kept as soon as it is there.

A process that runs out of memory or time, or is killed, costs its point and nothing else. Rows are kept beside the
cell's checkpoints, so a run that was stopped goes on with the points that are missing.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...results.atomic import replacing
from ...results.record import Failure, KernelUse, Record, Status, from_json, to_json
from ...tasks.base import Row
from ...tasks.efficiency.points import Point, PointTask
from .outcome import Outcome
from .request import Request
from .worker import failed_record

RunProcess = Callable[[Request, float | None], Outcome]
"""Runs a request in a process of its own within some seconds."""


@dataclass(frozen=True)
class PointOutcome:
    """What became of a point: its row, and what its process left beside it."""

    row: Row
    record: Record
    log: str = ""


@dataclass
class SweepRun:
    """The points of one cell on their way.

    Attributes:
        task: The task.
        request: The cell's request.
        run_process: Runs one point.
        tell: Told the name of each point that begins.
        deadline_s: When the cell's time is up, on the monotonic clock; None for no limit.
        outcomes: What became of the points so far.
        last_log: What was printed by a process that ended the cell: it could not even begin to measure, or was stopped;
            empty where none.
    """

    task: PointTask
    request: Request
    run_process: RunProcess
    tell: Callable[[str], None]
    deadline_s: float | None = None
    outcomes: list[PointOutcome] = field(default_factory=list)
    last_log: str = ""

    def run(self) -> Outcome:
        """The cell's record, its rows, and what its processes printed."""
        points = self.task.points(self.settings, self.request.cell.limit)
        failure: Failure | None = None
        status: Status = "ok"
        try:
            point = next(points)
            while True:
                left_s = self._left_s()
                outcome = self._kept(point)
                if outcome is None and left_s is not None and left_s <= 0:
                    status, failure = "timeout", Failure("Timeout", f"the time limit was up before {point.name}")
                    break
                outcome = outcome or self._measure(point, left_s)
                if outcome is None:
                    status, failure = "timeout", Failure("Timeout", f"the time limit was up during {point.name}")
                    break
                if self._ends_the_cell(outcome):
                    status, failure, self.last_log = outcome.record.status, outcome.record.error, outcome.log
                    break
                self.outcomes.append(outcome)
                point = points.send(outcome.row)
        except StopIteration:
            pass
        return Outcome(self._record(status, failure), self.rows, self._log())

    @property
    def settings(self) -> Any:
        """The task's settings."""
        return self.request.cell.settings["task"]

    @property
    def rows(self) -> list[Row]:
        """The rows so far."""
        return [outcome.row for outcome in self.outcomes]

    def _left_s(self) -> float | None:
        return None if self.deadline_s is None else self.deadline_s - time.monotonic()

    def _measure(self, point: Point, left_s: float | None) -> PointOutcome | None:
        """What became of a point; None where it was stopped as the cell's time was up, which is no result of it."""
        self.tell(point.name)
        own_s = self.settings.get("point_timeout_s")
        request = dataclasses.replace(self.request, point=dataclasses.asdict(point))
        ended = self.run_process(request, min((s for s in (own_s, left_s) if s is not None), default=None))
        record = ended.record
        was_stopped = record.status == "timeout" and not ended.rows
        if was_stopped and left_s is not None and (own_s is None or left_s < own_s):
            self.last_log = ended.log
            return None
        message = record.error.message if record.error else record.status
        row = ended.rows[0] if ended.rows else point.row(record.status, {"message": message})
        outcome = PointOutcome(row, record, ended.log)
        if outcome.row["status"] != "error" and not self._ends_the_cell(outcome):
            self._keep(point, outcome)
        return outcome

    def _ends_the_cell(self, outcome: PointOutcome) -> bool:
        """Whether a subject could not be built that no other point could be measured on so far either."""
        subject = outcome.row["subject"]
        return _is_refused(outcome.record) and not any(
            row["status"] == "ok" and row["subject"] == subject for row in self.rows
        )

    def _file(self, point: Point) -> Path:
        return Path(self.request.checkpoints) / "points" / f"{point.name}.json"

    def _kept(self, point: Point) -> PointOutcome | None:
        file = self._file(point)
        if not file.exists():
            return None
        data = json.loads(file.read_text(encoding="utf-8"))
        return PointOutcome(data["row"], from_json(data["record"]))

    def _keep(self, point: Point, outcome: PointOutcome) -> None:
        with replacing(self._file(point)) as handle:
            handle.write(json.dumps({"row": outcome.row, "record": to_json(outcome.record)}).encode())

    def _record(self, status: Status, failure: Failure | None) -> Record:
        """One record of all points: `error` where a point has no result at all, with the first such point's error."""
        broken = next((outcome for outcome in self.outcomes if outcome.row["status"] == "error"), None)
        if broken is not None:
            status, failure = "error", _named(broken)
        metrics = self.task.score(self.rows, self.settings) if self.outcomes else []
        sizes = next((o.record.metrics for o in self.outcomes if o.record.metrics), ())
        records = [outcome.record for outcome in self.outcomes]
        ran = [record for record in records if record.status == "ok"] or records
        record = failed_record(self.request, status, failure)
        return dataclasses.replace(
            record,
            metrics=(*metrics, *sizes),
            timings_s=_summed(records),
            kernels=_kernels(records),
            environment=ran[0].environment if ran else record.environment,
            notes=(*dict.fromkeys(note for r in records for note in r.notes), *_failures(self.rows)),
        )

    def _log(self) -> str:
        printed = [(Point(**_fields(o.row)).name, o.log) for o in self.outcomes if o.log.strip()]
        return "".join(f"{name}:\n{log}" for name, log in printed) + self.last_log


def run_sweep(
    task: PointTask,
    request: Request,
    run_process: RunProcess,
    timeout_s: float | None,
    tell: Callable[[str], None],
) -> Outcome:
    """Measures a cell point by point.

    Args:
        task: The cell's task.
        request: What to do.
        run_process: Runs one point.
        timeout_s: Seconds for all points together; the cell's status is `timeout` where they were not enough.
        tell: Told the name of each point that begins.
    """
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    return SweepRun(task, request, run_process, tell, deadline_s).run()


def _is_refused(record: Record) -> bool:
    """Whether a point failed before it was measured, as where its model could not be built."""
    was_killed = record.error is not None and record.error.type in ("Killed", "Crashed")
    return record.status in ("error", "unsupported") and "predict" not in record.timings_s and not was_killed


def _named(outcome: PointOutcome) -> Failure:
    error = outcome.record.error or Failure("Error", str(outcome.row.get("message", "")))
    name = Point(**_fields(outcome.row)).name
    return dataclasses.replace(error, message=f"{name}: {error.message}")


def _fields(row: Row) -> dict[str, Any]:
    return {f.name: row[f.name] for f in dataclasses.fields(Point)}


def _summed(records: Sequence[Record]) -> dict[str, float]:
    phases = dict.fromkeys(phase for record in records for phase in record.timings_s)
    return {phase: sum(record.timings_s.get(phase, 0.0) for record in records) for phase in phases}


def _kernels(records: Sequence[Record]) -> tuple[KernelUse, ...]:
    return tuple(dict.fromkeys(kernel for record in records for kernel in record.kernels))


def _failures(rows: Sequence[Row]) -> list[str]:
    """A note for each point without a result."""
    failed = [row for row in rows if row["status"] != "ok" and row["role"] != "probe"]
    return [f"{Point(**_fields(row)).name}: {row['status']}: {row.get('message', '')}" for row in failed]

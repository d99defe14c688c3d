"""A cell that is measured point by point: each point in a process of its own, its row kept as soon as it is measured.

A process that runs out of memory or time, or is killed, costs its own point only. Rows are kept beside the cell's
checkpoints, so a run that was stopped goes on with the missing points. Cells that differ in nothing but the model take
turns, so that a slow minute of the machine hits all models alike.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias, cast

from ...results.foreign import ForeignJsonError
from ...results.record import Failure, Record, Scalar, Status
from ...results.run_folder import RunFolder
from ...tasks.base import Row
from ...tasks.efficiency.points import Point, PointTask
from .job import PEAK, CellJob, CellOutcome, Message


class Turns:
    """Lets several sweeps measure one point each in rotation, never two at a time.

    Args:
        sweeps: Their names; each takes part until it leaves.
    """

    def __init__(self, sweeps: Iterable[str]) -> None:
        self._waiting = deque(sweeps)
        self._changed = threading.Condition()

    @contextmanager
    def take(self, sweep: str) -> Iterator[None]:
        """Waits for the turn of a sweep, and passes it on after the block."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting[0] == sweep)
        try:
            yield
        finally:
            with self._changed:
                self._waiting.rotate(-1)
                self._changed.notify_all()

    def leave(self, sweep: str) -> None:
        """Takes a sweep that has ended out of the rotation."""
        with self._changed:
            self._waiting.remove(sweep)
            self._changed.notify_all()


Turn: TypeAlias = Callable[[], AbstractContextManager[None]]
"""Waits for the turn of one sweep."""


@dataclass
class SweepRun:
    """The points of one cell, measured one after another.

    Attributes:
        task: The cell's task.
        job: The cell's job; its time limit holds for all points together, without the time of other cells' turns.
        run_process: Runs the job of one point in a process of its own.
        tell: Takes a message of progress for each point that begins.
        turn: Entered for each point that is measured.
        measured: Outcome of each point so far.
        last_log: Output of the process that ended the cell because its model could not be built or time ran out.
    """

    task: PointTask
    job: CellJob
    run_process: Callable[[CellJob], CellOutcome]
    tell: Callable[[Message], None]
    turn: Turn = nullcontext
    measured: dict[Point, CellOutcome] = field(default_factory=dict)
    last_log: str = ""

    def run(self) -> CellOutcome:
        """The cell's record, its rows, and the output of its processes; status `timeout` if time was up."""
        status, failure = self._measure_all()
        printed = [f"{point.name}:\n{outcome.log}" for point, outcome in self.measured.items() if outcome.log.strip()]
        return CellOutcome(self._record(status, failure), self._rows(), "".join(printed) + self.last_log)

    def _measure_all(self) -> tuple[Status, Failure | None]:
        """Measures every point; the cell's status, and its error if it ended early."""
        spent_s = 0.0
        points = self.task.points(self.job.task_settings, self.job.cell.limit)
        try:
            point = next(points)
            while True:
                left_s = None if self.job.timeout_s is None else self.job.timeout_s - spent_s
                file = self._file(point)
                outcome = self._kept(file)
                if outcome is None and left_s is not None and left_s <= 0:
                    return "timeout", Failure("Timeout", f"the time limit was up before {point.name}")
                if outcome is None:
                    with self.turn():
                        start_s = time.monotonic()
                        outcome = self._measure(point, left_s)
                        spent_s += time.monotonic() - start_s
                if outcome is None:
                    return "timeout", Failure("Timeout", f"the time limit was up during {point.name}")
                if self._ends_the_cell(outcome):
                    self.last_log = outcome.log
                    return outcome.record.status, outcome.record.error
                self.measured[point] = outcome
                point = points.send(outcome.rows[0])
        except StopIteration:
            return "ok", None

    @cached_property
    def _most(self) -> int | None:
        """Points of the sweep if none fails; None if that depends on what is measured."""
        points = self.task.points(self.job.task_settings, self.job.cell.limit)
        count, point = 0, next(points, None)
        try:
            while point is not None:
                count += 1
                point = points.send(point.row("ok", {}))
        except StopIteration:
            return count
        except KeyError:
            return None
        return count

    def _rows(self) -> list[Row]:
        return [row for outcome in self.measured.values() for row in outcome.rows]

    def _measure(self, point: Point, left_s: float | None) -> CellOutcome | None:
        """The outcome of a point with its one row; None if the cell's time was up before the point's own."""
        length = (
            f"{point.seq_len // 1024}k" if point.seq_len and point.seq_len % 1024 == 0 else str(point.seq_len or "")
        )
        doing = f"{point.mode} {length}".strip()
        self.tell(
            {"phase": "points", "doing": doing, "done": len(self.measured), "total": self._most, "unit": "points"}
        )
        own_s = cast(float | None, self.job.task_settings.get("point_timeout_s"))
        limit_s = min((s for s in (own_s, left_s) if s is not None), default=None)
        outcome = self.run_process(replace(self.job, point=point, timeout_s=limit_s))
        record = outcome.record
        if not outcome.rows:
            if record.status == "timeout" and left_s is not None and (own_s is None or left_s < own_s):
                self.last_log = outcome.log
                return None
            message = record.error.message if record.error else record.status
            outcome = replace(outcome, rows=[point.row(record.status, {"message": message})])
        if outcome.rows[0]["status"] != "error" and not self._ends_the_cell(outcome):
            with suppress(OSError):  # such as a full disk: a run that is stopped measures the point again
                outcome.write(self._file(point))
        return outcome

    def _ends_the_cell(self, outcome: CellOutcome) -> bool:
        """Whether a point failed before it was measured, and no other point has measured the same subject so far.

        The model could not be built then, and no later point will do better.
        """
        record, subject = outcome.record, outcome.rows[0]["subject"]
        was_killed = record.error is not None and record.error.type in ("Killed", "Crashed")
        is_refused = record.status in ("error", "unsupported") and "predict" not in record.timings_s and not was_killed
        return is_refused and not any(row["status"] == "ok" and row["subject"] == subject for row in self._rows())

    def _kept(self, file: Path) -> CellOutcome | None:
        """The outcome of a point that an earlier run measured; a damaged file is set aside, and its point measured."""
        try:
            outcome = CellOutcome.read(file)
            if outcome.rows and {"status", "subject"} <= outcome.rows[0].keys():
                return outcome
        except FileNotFoundError:
            return None
        except (OSError, ForeignJsonError, AttributeError):
            pass
        RunFolder(self.job.root).set_aside(file)
        return None

    def _file(self, point: Point) -> Path:
        return self.job.checkpoints / "points" / f"{point.name}.json"

    def _record(self, status: Status, failure: Failure | None) -> Record:
        """One record of all points: `error` if a point has no result at all, with the first such point's error."""
        for point, outcome in self.measured.items():
            if outcome.rows[0]["status"] == "error":
                error = outcome.record.error or Failure("Error", str(outcome.rows[0].get("message", "")))
                status, failure = "error", replace(error, message=f"{point.name}: {error.message}")
                break
        record = self.job.record(status, failure)
        records = [outcome.record for outcome in self.measured.values()]
        ran = [point for point in records if point.status == "ok"] or records
        metrics = self.task.score(self._rows(), self.job.task_settings) if self.measured else []
        phases = dict.fromkeys(phase for point in records for phase in point.timings_s)
        return replace(
            record,
            metrics=(*metrics, *next((point.metrics for point in records if point.metrics), ())),
            timings_s={phase: sum(point.timings_s.get(phase, 0.0) for point in records) for phase in phases},
            kernels=tuple(dict.fromkeys(kernel for point in records for kernel in point.kernels)),
            environment=_environment(ran) if ran else record.environment,
            data=ran[0].data if ran else record.data,
            notes=(*dict.fromkeys(note for point in records for note in point.notes), *self._failures()),
        )

    def _failures(self) -> Iterator[str]:
        """A note for each point without a result; probes are meant to fail at some batch."""
        for point, outcome in self.measured.items():
            row = outcome.rows[0]
            if row["status"] != "ok" and point.role != "probe":
                yield f"{point.name}: {row['status']}: {row.get('message', '')}"


def _environment(records: Sequence[Record]) -> dict[str, Scalar]:
    """The environment of a sweep: that of its first point, and the most memory of any."""
    held = [peak for record in records if isinstance(peak := record.environment.get(PEAK), int)]
    return {**records[0].environment, **({PEAK: max(held)} if held else {})}

"""Executors of cells, and the one of this machine; those of clusters are in `clusters.py`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeAlias

from ...tasks.efficiency.points import PointTask
from ..memory.room import MemoryRoom, memory_there
from .job import CellJob, CellOutcome, Message
from .process import CellProcesses
from .sweeping import Turns

Started: TypeAlias = Callable[[CellJob], None]
"""Called when a job begins."""

OnProgress: TypeAlias = Callable[[CellJob, Message], None]
"""Called with each message of a job's worker."""

Outcomes: TypeAlias = Iterator[tuple[CellJob, CellOutcome]]


class Executor(Protocol):
    """Runs jobs somewhere."""

    def prepare(self, recipes: Collection[str]) -> None:
        """Gets ready for jobs of these recipes, while the plan is still made."""
        ...

    def run(self, jobs: Sequence[CellJob], started: Started, on_progress: OnProgress) -> Outcomes:
        """Runs all jobs; gives each with its outcome as it ends."""
        ...

    def cancel(self) -> None:
        """Ends what still runs."""
        ...


def _groups(jobs: Sequence[CellJob]) -> Iterator[list[CellJob]]:
    """The jobs that may run side by side, those of one model together, then each job that measures time by itself."""
    if shared := [job for job in jobs if not job.task.info.own_device]:
        first: dict[str, int] = {}
        for place, job in enumerate(shared):
            first.setdefault(job.model_key or job.cell.key, place)
        yield sorted(shared, key=lambda job: first[job.model_key or job.cell.key])
    yield from ([job] for job in jobs if job.task.info.own_device)


def in_turns(jobs: Sequence[CellJob]) -> list[list[CellJob]]:
    """The groups of jobs that may run side by side; sweeps that differ in nothing but the model are one."""
    joined: dict[Any, list[CellJob]] = {}
    for number, group in enumerate(_groups(jobs)):
        job = group[0]
        is_sweep = job.task.info.own_device and isinstance(job.task, PointTask) and job.cell.peer_key
        joined.setdefault((job.cell.peer_key, job.cell.seed) if is_sweep else number, []).extend(group)
    return list(joined.values())


class LocalExecutor:
    """Up to `workers` processes of this machine at a time, as far as the memory that is there allows."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.processes = CellProcesses()
        self.room = MemoryRoom(memory_there(), workers)

    def prepare(self, recipes: Collection[str]) -> None:
        """Starts the server that processes are forked from, with what jobs of these recipes will need."""
        self.processes.prepare(recipes)

    def run(self, jobs: Sequence[CellJob], started: Started, on_progress: OnProgress) -> Outcomes:
        """Outcomes in the order in which jobs end; jobs that measure time run alone, after the others.

        Sweeps that differ in nothing but the model take turns point by point.
        """
        for group in in_turns(jobs):
            yield from self._run_together(group, started, on_progress)

    def cancel(self) -> None:
        """Ends every process."""
        self.room.close()
        self.processes.cancel()

    def _run_together(self, jobs: Sequence[CellJob], started: Started, on_progress: OnProgress) -> Outcomes:
        turns = Turns(job.cell.key for job in jobs) if jobs[0].task.info.own_device else None

        def run_one(job: CellJob) -> CellOutcome:
            if turns is None:
                with self.room.take(job.need_bytes):
                    started(job)
                    return self._noted(job, self.processes.run(job, partial(on_progress, job)))
            started(job)
            try:
                return self.processes.run(job, partial(on_progress, job), partial(turns.take, job.cell.key))
            finally:
                turns.leave(job.cell.key)

        pool = ThreadPoolExecutor(self.workers if turns is None else len(jobs))
        try:
            running = {pool.submit(run_one, job): job for job in jobs}
            for ended in as_completed(running):
                yield running[ended], ended.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an interrupt, `cancel` must be reached at once

    def _noted(self, job: CellJob, outcome: CellOutcome) -> CellOutcome:
        """The outcome; its record says if the cell was estimated to need more memory than there is."""
        if job.need_bytes is None or job.need_bytes <= self.room.there_bytes:
            return outcome
        sizes = f"{job.need_bytes / 2**30:.1f} GiB of memory were estimated and {self.room.there_bytes / 2**30:.1f} GiB"
        note = f"{sizes} were there, so nothing else ran beside this cell"
        return replace(outcome, record=replace(outcome.record, notes=(*outcome.record.notes, note)))

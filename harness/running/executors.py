"""Executors of cells: processes of this machine, or of a Ray cluster."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from typing import Any, TypeAlias

from ...results.names import UsageError
from ...tasks.efficiency.points import PointTask
from .job import CellJob, CellOutcome, Message
from .process import CellProcesses
from .sweeping import Turns

Started: TypeAlias = Callable[[CellJob], None]
"""Called when a job begins."""

OnProgress: TypeAlias = Callable[[CellJob, Message], None]
"""Called with each message of a job's worker."""

Outcomes: TypeAlias = Iterator[tuple[CellJob, CellOutcome]]


def _groups(jobs: Sequence[CellJob]) -> Iterator[list[CellJob]]:
    """The jobs that may run side by side, those of one model together, then each job that measures time by itself."""
    if shared := [job for job in jobs if not job.task.info.own_device]:
        first: dict[str, int] = {}
        for place, job in enumerate(shared):
            first.setdefault(job.model_key or job.cell.key, place)
        yield sorted(shared, key=lambda job: first[job.model_key or job.cell.key])
    yield from ([job] for job in jobs if job.task.info.own_device)


def _in_turns(groups: Iterable[Sequence[CellJob]]) -> list[list[CellJob]]:
    """The groups; sweeps that differ in nothing but the model are joined into one."""
    joined: dict[Any, list[CellJob]] = {}
    for number, group in enumerate(groups):
        job = group[0]
        is_sweep = job.task.info.own_device and isinstance(job.task, PointTask) and job.cell.peer_key
        joined.setdefault((job.cell.peer_key, job.cell.seed) if is_sweep else number, []).extend(group)
    return list(joined.values())


class LocalExecutor:
    """Up to `workers` processes of this machine at a time."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.processes = CellProcesses()

    def prepare(self, recipes: Collection[str]) -> None:
        """Starts the server that processes are forked from, with what jobs of these recipes will need."""
        self.processes.prepare(recipes)

    def run(self, jobs: Sequence[CellJob], started: Started, on_progress: OnProgress) -> Outcomes:
        """Outcomes in the order in which jobs end; jobs that measure time run alone, after the others.

        Sweeps that differ in nothing but the model take turns point by point.
        """
        for group in _in_turns(_groups(jobs)):
            yield from self._run_together(group, started, on_progress)

    def cancel(self) -> None:
        """Ends every process."""
        self.processes.cancel()

    def _run_together(self, jobs: Sequence[CellJob], started: Started, on_progress: OnProgress) -> Outcomes:
        turns = Turns(job.cell.key for job in jobs) if jobs[0].task.info.own_device else None

        def run_one(job: CellJob) -> CellOutcome:
            started(job)
            if turns is None:
                return self.processes.run(job, partial(on_progress, job))
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


class RayExecutor:
    """Ray tasks on this machine or on the cluster that `RAY_ADDRESS` names: one for each cell.

    Sweeps that differ in nothing but the model are one task, and take turns point by point on one node.
    Nodes of a cluster must see the run's folder and the mirror under the same paths.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pending: list[Any] = []

    def prepare(self, recipes: Collection[str]) -> None:
        """Does nothing: the cluster has its own processes."""

    def run(self, jobs: Sequence[CellJob], started: Started, on_progress: OnProgress) -> Outcomes:
        """Outcomes in the order of `LocalExecutor.run`; Ray reports no progress within a task."""
        del on_progress
        if not jobs:
            return
        ray = self._connect(max(job.threads for job in jobs))
        for group in _in_turns(_groups(jobs)):
            for job in group:
                started(job)
            are_sweeps = group[0].task.info.own_device
            parts = [group] if are_sweeps else [[job] for job in group]
            submitted = {self._submit(ray, part): part for part in parts}
            while submitted:
                (ready,), _ = ray.wait(list(submitted), num_returns=1)
                self._pending.remove(ready)
                yield from zip(submitted.pop(ready), ray.get(ready), strict=True)

    def cancel(self) -> None:
        """Cancels pending tasks and leaves the cluster."""
        ray: Any = importlib.import_module("ray")
        for reference in self._pending:
            ray.cancel(reference, force=True)
        ray.shutdown()

    def _connect(self, threads: int) -> Any:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray: Any = importlib.import_module("ray")
        if not ray.is_initialized():
            if address := os.environ.get("RAY_ADDRESS"):
                ray.init(address=address, log_to_driver=False)
            else:
                ray.init(num_cpus=self.workers * threads, include_dashboard=False, log_to_driver=False)
        return ray

    def _submit(self, ray: Any, jobs: Sequence[CellJob]) -> Any:
        gpus = 1 if jobs[0].cell.device == "cuda" else 0
        remote = ray.remote(max_retries=1, retry_exceptions=False, max_calls=1, num_gpus=gpus)(_run_on_node)
        reference = remote.options(num_cpus=jobs[0].threads).remote(jobs)
        self._pending.append(reference)
        return reference


def _run_on_node(jobs: Sequence[CellJob]) -> list[CellOutcome]:
    """The outcomes of one job, or of sweeps that take turns, in the order of the jobs."""
    outcomes = {job.cell.key: found for job, found in LocalExecutor(1).run(jobs, lambda _: None, lambda *_: None)}
    return [outcomes[job.cell.key] for job in jobs]


Executor: TypeAlias = LocalExecutor | RayExecutor
EXECUTORS: Mapping[str, type[Executor]] = {"local": LocalExecutor, "ray": RayExecutor}


def make_executor(name: str, workers: int) -> Executor:
    """The executor called `name`, one of `config.EXECUTORS`.

    Raises:
        UsageError: `ray` was asked for and is not installed.
    """
    if name == "ray" and importlib.util.find_spec("ray") is None:
        raise UsageError("executor ray needs the package ray: pip install 'hedgebench[ray]', or use --executor local")
    return EXECUTORS[name](workers)

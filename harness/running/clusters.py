"""Executors of cells on a cluster, under Ray or Slurm, and the choice of an executor."""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from ...results.names import UsageError
from ...results.record import Failure
from ...results.tables.row import REFERENCE_MODEL
from ..recipes import RECIPES
from .executors import Executor, LocalExecutor, OnProgress, Outcomes, Started, in_turns
from .job import CellJob, CellOutcome

_DAY_S = 24 * 3600.0
"""Time that Slurm grants a job if no limit was asked for."""

_POLL_S = 0.5


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
        for group in _waves(jobs):
            for job in group:
                started(job)
            submitted = {self._submit(ray, part): part for part in _parts(group)}
            while submitted:
                (ready,), _ = ray.wait(list(submitted), num_returns=1)
                self._pending.remove(ready)
                part = submitted.pop(ready)
                try:
                    outcomes = ray.get(ready)
                except ray.exceptions.RayError as error:
                    outcomes = [_lost(job, error) for job in part]
                yield from zip(part, outcomes, strict=True)

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
        # A task that asks for more than any node has would wait for ever.
        largest = max(int(node["Resources"].get("memory", 0)) for node in ray.nodes())
        memory = min(max(job.need_bytes or 0 for job in jobs), largest)
        reference = remote.options(num_cpus=jobs[0].threads, memory=memory).remote(jobs)
        self._pending.append(reference)
        return reference


class SlurmExecutor:
    """Jobs of Slurm, one for each cell; those of a run are an array, of which up to `workers` run at a time.

    Sweeps that differ in nothing but the model are one job, as under `RayExecutor`. Nodes must see the run's folder,
    the mirror and this Python under the same paths. Partition, account and time limit are those of the variables that
    `sbatch` reads, such as `SBATCH_PARTITION`.
    """

    def __init__(self, workers: int, cluster: str = "slurm") -> None:
        """`cluster` is `slurm`, or `local` for submitit's processes of this machine."""
        self.workers = workers
        self.cluster = cluster
        self._pending: list[Any] = []

    def prepare(self, recipes: Collection[str]) -> None:
        """Does nothing: jobs have processes of their own."""

    def run(self, jobs: Sequence[CellJob], started: Started, on_progress: OnProgress) -> Outcomes:
        """Outcomes in the order of `LocalExecutor.run`; jobs report no progress.

        A job that is lost with its node is submitted once more; a cell that fails is not.
        """
        del on_progress
        submitit: Any = importlib.import_module("submitit")
        for group in _waves(jobs):
            for job in group:
                started(job)
            executor = self._executor(submitit, group)
            parts = _parts(group)
            with executor.batch():
                submitted = [executor.submit(_run_on_node, part) for part in parts]
            self._pending = list(submitted)
            waiting = [(handle, part, True) for handle, part in zip(submitted, parts, strict=True)]
            while waiting:
                handle, part, may_repeat = _first_done(waiting)
                waiting.remove((handle, part, may_repeat))
                self._pending.remove(handle)
                try:
                    outcomes = handle.result()
                except submitit.core.utils.UncompletedJobError as error:
                    if may_repeat and not isinstance(error, submitit.core.utils.FailedJobError):
                        again = executor.submit(_run_on_node, part)
                        self._pending.append(again)
                        waiting.append((again, part, False))
                        continue
                    outcomes = [_lost(job, error) for job in part]
                yield from zip(part, outcomes, strict=True)

    def cancel(self) -> None:
        """Cancels the jobs that have not ended."""
        for handle in self._pending:
            handle.cancel()

    def _executor(self, submitit: Any, group: Sequence[CellJob]) -> Any:
        """Submits jobs with what the largest of a group needs; one that measures time has a node of its own."""
        limits = [job.timeout_s for job in group]
        seconds = sum(limit for limit in limits if limit is not None) if None not in limits else _DAY_S
        parameters = {
            "name": "hedgebench",
            "cpus_per_task": max(job.threads for job in group),
            "gpus_per_node": int(any(job.cell.device == "cuda" for job in group)),
            "mem_gb": _node_gb(max(job.need_bytes or 0 for job in group)),
            "timeout_min": math.ceil(seconds / 60) + 10,
            "slurm_array_parallelism": self.workers,
            "slurm_exclusive": group[0].task.info.own_device,
        }
        executor = submitit.AutoExecutor(folder=group[0].root / "slurm", cluster=self.cluster)
        executor.update_parameters(**{key: value for key, value in parameters.items() if value})
        return executor


def _run_on_node(jobs: Sequence[CellJob]) -> list[CellOutcome]:
    """The outcomes of one job, or of sweeps that take turns, in the order of the jobs."""
    outcomes = {job.cell.key: found for job, found in LocalExecutor(1).run(jobs, lambda _: None, lambda *_: None)}
    return [outcomes[job.cell.key] for job in jobs]


def _teachers_first(group: Sequence[CellJob]) -> list[list[CellJob]]:
    """The jobs in two parts: those whose softmax model the others are converted from, and the others.

    On a cluster, the others would hold processors while they wait for it.
    """
    first: dict[object, CellJob] = {}
    for job in sorted(group, key=lambda job: job.cell.model != REFERENCE_MODEL):
        trains = RECIPES[job.cell.recipe].trains_teacher
        first.setdefault((job.cell.peer_key, job.cell.seed) if trains else job.cell.key, job)
    chosen = {job.cell.key for job in first.values()}
    parts = [[job for job in group if (job.cell.key in chosen) == is_first] for is_first in (True, False)]
    return [part for part in parts if part]


def _first_done(waiting: Sequence[tuple[Any, list[CellJob], bool]]) -> tuple[Any, list[CellJob], bool]:
    """The first of some jobs that has ended, once one has."""
    while True:
        for each in waiting:
            if each[0].done():
                return each
        time.sleep(_POLL_S)


def _node_gb(need_bytes: int) -> int:
    """Gigabytes to ask a node for: twice the estimate, and what two processes begin with; 0 if it is not known."""
    return math.ceil(2 * need_bytes / 2**30) + 2 if need_bytes else 0


def _waves(jobs: Sequence[CellJob]) -> Iterator[list[CellJob]]:
    """The groups that run one after another on a cluster."""
    for group in in_turns(jobs):
        yield from [group] if group[0].task.info.own_device else _teachers_first(group)


def _parts(group: Sequence[CellJob]) -> list[list[CellJob]]:
    """The jobs that one task of a cluster runs: one, or the sweeps that take turns."""
    return [list(group)] if group[0].task.info.own_device else [[job] for job in group]


def _lost(job: CellJob, error: Exception) -> CellOutcome:
    """The outcome of a job that its cluster lost."""
    return CellOutcome(job.record("error", Failure("Lost", f"the cluster lost the cell: {error}")), [])


EXECUTORS: Mapping[str, Callable[[int], Executor]] = {
    "local": LocalExecutor,
    "ray": RayExecutor,
    "slurm": SlurmExecutor,
}
_PACKAGES = {"ray": "ray", "slurm": "submitit"}


def make_executor(name: str, workers: int) -> Executor:
    """The executor called `name`, one of `config.EXECUTORS`.

    Raises:
        UsageError: `ray` or `slurm` was asked for, and its package or `sbatch` is not installed.
    """
    package = _PACKAGES.get(name)
    if package and importlib.util.find_spec(package) is None:
        how = f"pip install 'hedgebench[{name}]', or use --executor local"
        raise UsageError(f"executor {name} needs the package {package}: {how}")
    if name == "slurm" and shutil.which("sbatch") is None:
        raise UsageError("executor slurm needs the command sbatch, and this machine has none; use --executor local")
    return EXECUTORS[name](workers)

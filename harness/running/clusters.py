"""Executors of cells on a cluster, under Ray or Slurm, and the choice of an executor."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...results.foreign import convert, parse_json
from ...results.names import UsageError
from ...results.record import Failure
from ...results.run_folder import PROGRESS, RunFolder
from ...results.tables.row import REFERENCE_MODEL
from ..recipes import RECIPES
from .executors import Executor, LocalExecutor, OnProgress, Outcomes, Started, in_turns
from .job import CellJob, CellOutcome, Message

_DAY_S = 24 * 3600.0
"""Time that Slurm grants a job if no limit was asked for."""

_POLL_S = 0.5
_LEAVE_S = 2.0
"""Least seconds between two messages that a cell leaves in one phase."""


@dataclass(frozen=True)
class _Left:
    """The fields of a message."""

    phase: str
    done: int | None = None
    total: int | None = None
    unit: str | None = None
    loss: float | None = None
    doing: str | None = None


@dataclass
class ProgressFiles:
    """The latest message of each cell that runs on another machine, in a small file in the run's folder.

    No cell and no run depends on them: what cannot be written or read is left out.

    Attributes:
        root: Folder of the run.
    """

    root: Path
    _left: dict[str, tuple[str, float]] = field(default_factory=dict)
    _read: dict[str, bytes] = field(default_factory=dict)

    def leave(self, job: CellJob, message: Message) -> None:
        """Leaves a message of a cell for the run, unless one of the same phase was left a moment ago."""
        phase, left_s = self._left.get(job.cell.key, ("", 0.0))
        now_s = time.monotonic()
        if message["phase"] != phase or now_s - left_s >= _LEAVE_S:
            self._left[job.cell.key] = message["phase"], now_s
            with suppress(OSError, UsageError, TypeError, ValueError):
                RunFolder(self.root).write(self._path(job), json.dumps(message).encode())

    def pass_on(self, parts: Iterable[Sequence[CellJob]], on_progress: OnProgress) -> None:
        """Passes on what cells have left since the last call."""
        for job in (job for part in parts for job in part):
            if (message := self._news_of(job)) is not None:
                on_progress(job, message)

    def __enter__(self) -> ProgressFiles:
        return self

    def __exit__(self, *_: object) -> None:
        """Removes every file."""
        with suppress(OSError, UsageError):
            RunFolder(self.root).remove(self.root / PROGRESS)

    def _news_of(self, job: CellJob) -> Message | None:
        with suppress(OSError, UsageError, ValueError):
            text = RunFolder(self.root).check(self._path(job)).read_bytes()
            if text != self._read.get(job.cell.key):
                self._read[job.cell.key] = text
                message: Message = parse_json(text)
                convert(message, _Left, "message")
                if "done" not in message or {"total", "unit"} <= message.keys():
                    return message
        return None

    def _path(self, job: CellJob) -> Path:
        return self.root / PROGRESS / f"{job.cell.key}.json"


class RayExecutor:
    """Ray tasks on this machine or on the cluster that `RAY_ADDRESS` names: one for each cell.

    Sweeps that differ in nothing but the model are one task, and take turns point by point on one node. Without GPUs,
    a process of Ray serves one task after another, so that torch is imported once for all cells that it starts.
    Nodes of a cluster must see the run's folder and the mirror under the same paths.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pending: list[Any] = []

    def prepare(self, recipes: Collection[str]) -> None:
        """Does nothing: the cluster has its own processes."""

    def run(self, jobs: Sequence[CellJob], started: Started, on_progress: OnProgress) -> Outcomes:
        """Outcomes in the order of `LocalExecutor.run`."""
        if not jobs:
            return
        ray = self._connect(max(job.threads for job in jobs))
        with ProgressFiles(jobs[0].root) as progress:
            for group in _waves(jobs):
                _queue(group, started, on_progress)
                submitted = {self._submit(ray, part): part for part in _parts(group)}
                while submitted:
                    ended, _ = ray.wait(list(submitted), num_returns=1, timeout=_POLL_S)
                    progress.pass_on(submitted.values(), on_progress)
                    for reference in ended:
                        self._pending.remove(reference)
                        part = submitted.pop(reference)
                        try:
                            outcomes = ray.get(reference)
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
        gpus = max(job.devices for job in jobs) if jobs[0].cell.device == "cuda" else 0
        # The server of a process that goes on would start cells with the GPUs of its first task.
        calls = 1 if gpus else 0
        remote = ray.remote(max_retries=1, retry_exceptions=False, max_calls=calls, num_gpus=gpus)(_run_on_node)
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
        """Outcomes in the order of `LocalExecutor.run`.

        A job that is lost with its node is submitted once more; a cell that fails is not.
        """
        submitit: Any = importlib.import_module("submitit")
        for group in _waves(jobs):
            _queue(group, started, on_progress)
            executor = self._executor(submitit, group)
            parts = _parts(group)
            with executor.batch():
                submitted = [executor.submit(_run_on_node, part) for part in parts]
            self._pending = list(submitted)
            waiting = [(handle, part, True) for handle, part in zip(submitted, parts, strict=True)]
            with ProgressFiles(group[0].root) as progress:
                while waiting:
                    handle, part, may_repeat = _first_done(waiting, progress, on_progress)
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
        limit_s = group[0].timeout_s  # the run's, the same for every cell
        seconds = _DAY_S if limit_s is None else limit_s * max(map(len, _parts(group)))
        parameters = {
            "name": "hedgebench",
            "cpus_per_task": max(job.threads for job in group),
            "gpus_per_node": max(job.devices if job.cell.device == "cuda" else 0 for job in group),
            "mem_gb": _node_gb(max(job.need_bytes or 0 for job in group)),
            "timeout_min": math.ceil(seconds / 60) + 10,
            "slurm_array_parallelism": self.workers,
            "slurm_exclusive": group[0].task.info.own_device,
        }
        executor = submitit.AutoExecutor(folder=group[0].root / "slurm", cluster=self.cluster)
        executor.update_parameters(**{key: value for key, value in parameters.items() if value})
        return executor


def _queue(group: Sequence[CellJob], started: Started, on_progress: OnProgress) -> None:
    """Tells of cells that are submitted; they wait until the cluster has room for them."""
    for job in group:
        started(job)
        on_progress(job, {"phase": "queued"})


def _run_on_node(jobs: Sequence[CellJob]) -> list[CellOutcome]:
    """The outcomes of one job, or of sweeps that take turns, in the order of the jobs."""
    leave, local = ProgressFiles(jobs[0].root).leave, LocalExecutor(1)
    local.prepare({job.cell.recipe for job in jobs})
    with _nameless_main():
        try:
            outcomes = {job.cell.key: found for job, found in local.run(jobs, lambda _: None, leave)}
        finally:
            local.cancel()
    return [outcomes[job.cell.key] for job in jobs]


@contextmanager
def _nameless_main() -> Iterator[None]:
    """Keeps multiprocessing from running this process's script in each process of a cell: Ray's takes a second."""
    main = vars(sys.modules["__main__"])
    file = main.pop("__file__", None)
    try:
        yield
    finally:
        main |= {} if file is None else {"__file__": file}


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


def _first_done(
    waiting: Sequence[tuple[Any, list[CellJob], bool]], progress: ProgressFiles, on_progress: OnProgress
) -> tuple[Any, list[CellJob], bool]:
    """The first of some jobs that has ended, once one has; messages of the others are passed on meanwhile."""
    while True:
        for each in waiting:
            if each[0].done():
                return each
        progress.pass_on((part for _, part, _ in waiting), on_progress)
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

"""Where cells run: processes of this machine, or those of a Ray cluster."""

from __future__ import annotations

import importlib
import importlib.util
import os
import queue
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..config import UsageError
from .process import CellProcesses, OnProgress, Outcome
from .request import Request


@dataclass(frozen=True)
class Job:
    """A request, and how it is to be run.

    Attributes:
        request: What the worker does.
        own_device: Nothing else may run meanwhile.
        timeout_s: Time limit, or None.
    """

    request: Request
    own_device: bool
    timeout_s: float | None


Started = Callable[[Job], None]
"""Called when a job begins."""


class Executor(Protocol):
    """Runs jobs and gives their outcomes as they come."""

    def prepare(self, recipes: Collection[str]) -> None:
        """Makes ready, in the background, what jobs of these recipes will need."""
        ...

    def run(
        self, jobs: Sequence[Job], started: Started, on_progress: Callable[[Job], OnProgress]
    ) -> Iterator[tuple[Job, Outcome]]:
        """Outcomes in the order in which jobs end."""
        ...

    def cancel(self) -> None:
        """Ends whatever runs, at once."""
        ...


class LocalExecutor:
    """Up to `workers` processes at a time; jobs that measure time run alone, after the others."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.processes = CellProcesses()

    def prepare(self, recipes: Collection[str]) -> None:
        """Starts the server that processes are forked from."""
        self.processes.prepare(recipes)

    def run(
        self, jobs: Sequence[Job], started: Started, on_progress: Callable[[Job], OnProgress]
    ) -> Iterator[tuple[Job, Outcome]]:
        """Outcomes in the order in which jobs end."""
        shared = [job for job in jobs if not job.own_device]
        alone = [job for job in jobs if job.own_device]
        yield from self._run_together(shared, self.workers, started, on_progress)
        yield from self._run_together(alone, 1, started, on_progress)

    def cancel(self) -> None:
        """Ends every process."""
        self.processes.cancel()

    def _run_together(
        self, jobs: Sequence[Job], workers: int, started: Started, on_progress: Callable[[Job], OnProgress]
    ) -> Iterator[tuple[Job, Outcome]]:
        waiting = iter(jobs)
        lock = threading.Lock()
        done: queue.Queue[tuple[Job, Outcome] | BaseException] = queue.Queue()

        def work() -> None:
            while True:
                with lock:
                    job = next(waiting, None)
                if job is None:
                    return
                try:
                    started(job)
                    done.put((job, self.processes.run(job.request, job.timeout_s, on_progress(job))))
                except BaseException as error:
                    done.put(error)
                    return

        for _ in range(min(workers, len(jobs))):
            threading.Thread(target=work, daemon=True).start()
        for _ in jobs:
            outcome = done.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome


class RayExecutor:
    """One Ray task for each cell, on this machine or on the cluster that `RAY_ADDRESS` names."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pending: list[Any] = []

    def prepare(self, recipes: Collection[str]) -> None:
        """Does nothing: the cluster's processes are its own."""

    def run(
        self, jobs: Sequence[Job], started: Started, on_progress: Callable[[Job], OnProgress]
    ) -> Iterator[tuple[Job, Outcome]]:
        """Outcomes in the order in which jobs end; Ray tells no progress within a cell."""
        del on_progress
        if not jobs:
            return
        ray = self._connect(max(job.request.threads for job in jobs))
        yield from self._run_together(ray, [job for job in jobs if not job.own_device], started)
        for job in jobs:
            if job.own_device:
                yield from self._run_together(ray, [job], started)

    def cancel(self) -> None:
        """Cancels what is pending and leaves the cluster."""
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

    def _submit(self, ray: Any, job: Job) -> Any:
        gpus = 1 if job.request.cell.device == "cuda" else 0
        remote = ray.remote(max_retries=1, retry_exceptions=False, max_calls=1, num_gpus=gpus)(_run_on_node)
        reference = remote.options(num_cpus=job.request.threads).remote(job.request.to_json(), job.timeout_s)
        self._pending.append(reference)
        return reference

    def _run_together(self, ray: Any, jobs: Sequence[Job], started: Started) -> Iterator[tuple[Job, Outcome]]:
        submitted = {}
        for job in jobs:
            started(job)
            submitted[self._submit(ray, job)] = job
        while submitted:
            (ready,), _ = ray.wait(list(submitted), num_returns=1)
            self._pending.remove(ready)
            yield submitted.pop(ready), ray.get(ready)


def _run_on_node(request: Mapping[str, Any], timeout_s: float | None) -> Outcome:
    return CellProcesses().run(Request.from_json(request), timeout_s, lambda _: None)


EXECUTORS: Mapping[str, Callable[[int], Executor]] = {"local": LocalExecutor, "ray": RayExecutor}


def make_executor(name: str, workers: int) -> Executor:
    """The executor called `name`, one of `config.EXECUTORS`.

    Raises:
        UsageError: `ray` was asked for and is not installed.
    """
    if name == "ray" and importlib.util.find_spec("ray") is None:
        raise UsageError("executor ray needs the package ray: pip install 'hedgebench[ray]', or use --executor local")
    return EXECUTORS[name](workers)

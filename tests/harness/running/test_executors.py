"""Jobs run side by side up to the number asked for; those that measure time run alone."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest

from hedgebench.harness import config, registry
from hedgebench.harness.running import executors, runner
from hedgebench.harness.running.executors import EXECUTORS, LocalExecutor, RayExecutor, make_executor
from hedgebench.harness.running.job import CellJob, CellOutcome, Message
from hedgebench.harness.running.process import CellProcesses, Listener
from hedgebench.harness.running.sweeping import Turn
from hedgebench.results.names import UsageError
from hedgebench.results.record import Failure
from hedgebench.results.store import RunStore

MakeJob = Callable[..., CellJob]


class FakeProcesses(CellProcesses):
    """Notes who runs beside whom; a job whose seed is `fail_at` raises."""

    def __init__(self, seconds: float = 0.02, fail_at: int = -1) -> None:
        super().__init__()
        self.seconds, self.fail_at = seconds, fail_at
        self.lock = threading.Lock()
        self.now: set[int] = set()
        self.beside: dict[int, int] = {}
        self.order: list[int] = []

    def run(self, job: CellJob, listener: Listener, turn: Turn = nullcontext) -> CellOutcome:
        seed = job.cell.seed
        with self.lock:
            self.order.append(seed)
            self.now.add(seed)
            for other in self.now:
                self.beside[other] = max(self.beside.get(other, 0), len(self.now) - 1)
        time.sleep(self.seconds)
        with self.lock:
            self.now.discard(seed)
        if seed == self.fail_at:
            raise OSError("no more processes")
        listener({"phase": f"{seed} with limit {job.timeout_s}"})
        return CellOutcome(job.record("error", Failure("Fake", "")), [])


@pytest.fixture
def make_jobs(make_job: MakeJob) -> Callable[..., list[CellJob]]:
    def make(count: int, alone: tuple[int, ...] = ()) -> list[CellJob]:
        job = make_job(timeout_s=9.0)
        tasks = [registry.tasks().get("naughty_alone" if i in alone else "naughty") for i in range(count)]
        return [
            replace(job, planned=replace(job.planned, cell=replace(job.cell, seed=i), task=task))
            for i, task in enumerate(tasks)
        ]

    return make


@pytest.fixture
def local(naughty: object) -> Callable[..., tuple[LocalExecutor, FakeProcesses]]:
    def make(workers: int, **changes: Any) -> tuple[LocalExecutor, FakeProcesses]:
        executor, processes = LocalExecutor(workers), FakeProcesses(**changes)
        executor.processes = processes
        return executor, processes

    return make


Local = Callable[..., tuple[LocalExecutor, FakeProcesses]]
MakeJobs = Callable[..., list[CellJob]]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_job_ends_once_and_no_more_run_together_than_asked(
    local: Local, make_jobs: MakeJobs, workers: int
) -> None:
    executor, processes = local(workers)
    started: list[int] = []
    done = executor.run(make_jobs(5), lambda job: started.append(job.cell.seed), lambda *_: None)
    assert sorted(job.cell.seed for job, _ in done) == list(range(5))
    assert sorted(started) == list(range(5))
    assert max(processes.beside.values()) < workers


def test_as_many_jobs_run_together_as_there_are_workers(local: Local, make_jobs: MakeJobs) -> None:
    executor, processes = local(3)
    together = threading.Barrier(3, timeout=30)

    def wait() -> None:
        together.wait()

    list(executor.run(make_jobs(3), lambda _: None, lambda *_: wait()))
    assert sorted(processes.order) == [0, 1, 2]


def test_jobs_that_measure_time_run_alone_and_last(local: Local, make_jobs: MakeJobs) -> None:
    executor, processes = local(3)
    list(executor.run(make_jobs(6, alone=(0, 3)), lambda _: None, lambda *_: None))
    assert processes.order[4:] == [0, 3]
    assert (processes.beside[0], processes.beside[3]) == (0, 0)


def test_jobs_of_one_model_follow_each_other(local: Local, make_jobs: MakeJobs) -> None:
    executor, processes = local(1)
    keys = ("a", "b", None, "a", "b", "a")
    jobs = [replace(job, model_key=key) for job, key in zip(make_jobs(6), keys, strict=True)]
    list(executor.run(jobs, lambda _: None, lambda *_: None))
    assert processes.order == [0, 3, 5, 1, 4, 2]


def test_each_jobs_progress_and_time_limit_are_its_own(local: Local, make_jobs: MakeJobs) -> None:
    executor, _ = local(2)
    told: list[tuple[int, Message]] = []
    list(executor.run(make_jobs(2), lambda _: None, lambda job, m: told.append((job.cell.seed, m))))
    assert sorted(told, key=lambda t: t[0]) == [(i, {"phase": f"{i} with limit 9.0"}) for i in (0, 1)]


def test_no_jobs_start_nothing(local: Local) -> None:
    executor, processes = local(2)
    assert list(executor.run([], lambda _: None, lambda *_: None)) == []
    assert processes.order == []


def test_what_goes_wrong_in_a_thread_is_raised_to_the_run(local: Local, make_jobs: MakeJobs) -> None:
    executor, _ = local(2, fail_at=1)
    with pytest.raises(OSError, match="no more processes"):
        list(executor.run(make_jobs(4), lambda _: None, lambda *_: None))


def test_real_processes_run_through_the_local_executor(make_job: MakeJob, naughty: object) -> None:
    jobs = [make_job(how) for how in ("behave", "exit")]
    executor = LocalExecutor(2)
    outcomes = {job.cell.key: outcome for job, outcome in executor.run(jobs, lambda _: None, print)}
    assert [outcomes[job.cell.key].record.status for job in jobs] == ["ok", "error"]


def test_executors_are_those_that_a_configuration_may_name() -> None:
    assert tuple(EXECUTORS) == config.EXECUTORS
    assert isinstance(make_executor("local", 1), LocalExecutor)


def test_ray_is_refused_with_what_to_install_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'hedgebench\[ray\]'"):
        make_executor("ray", 1)


class FakeRay:
    """As much of Ray as the executor uses: tasks run when their result is asked for."""

    def __init__(self) -> None:
        self.running: list[Any] = []
        self.cancelled: list[Any] = []
        self.most_at_a_time = 0
        self.shut_down = False
        self.arguments: dict[str, Any] = {}

    def is_initialized(self) -> bool:
        return bool(self.arguments)

    def init(self, **arguments: Any) -> None:
        self.arguments = arguments

    def remote(self, **_: Any) -> Callable[[Any], Any]:
        def wrap(function: Any) -> Any:
            return _Remote(self, function)

        return wrap

    def wait(self, references: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        self.most_at_a_time = max(self.most_at_a_time, len(references))
        return references[-num_returns:], references[:-num_returns]

    def get(self, reference: Any) -> Any:
        self.running.remove(reference)
        return reference.result()

    def cancel(self, reference: Any, force: bool) -> None:
        self.cancelled.append((reference, force))

    def shutdown(self) -> None:
        self.shut_down = True


class _Remote:
    def __init__(self, ray: FakeRay, function: Any) -> None:
        self.ray, self.function, self.cpus = ray, function, 0

    def options(self, num_cpus: int) -> _Remote:
        self.cpus = num_cpus
        return self

    def remote(self, *arguments: Any) -> Any:
        reference = _Reference(lambda: self.function(*arguments))
        self.ray.running.append(reference)
        return reference


class _Reference:
    def __init__(self, result: Callable[[], Any]) -> None:
        self.result = result


@pytest.fixture
def fake_ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", cast(ModuleType, ray))
    monkeypatch.setattr(executors, "CellProcesses", lambda: FakeProcesses(seconds=0.0))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    return ray


def test_ray_runs_shared_jobs_together_and_those_that_measure_time_one_by_one(
    fake_ray: FakeRay, make_jobs: MakeJobs, naughty: object
) -> None:
    executor = RayExecutor(2)
    order = [
        job.cell.seed
        for job, outcome in executor.run(make_jobs(5, alone=(0, 2)), lambda _: None, lambda *_: None)
        if outcome.record.cell_id == job.cell.key
    ]
    assert sorted(order[:3]) == [1, 3, 4]
    assert order[3:] == [0, 2]
    assert fake_ray.most_at_a_time == 3
    assert fake_ray.arguments["num_cpus"] == 2
    assert fake_ray.arguments["include_dashboard"] is False


def test_ray_lets_models_take_turns_point_by_point_in_one_task(
    bench: Callable[..., Any], naughty: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", cast(ModuleType, ray))
    monkeypatch.setattr(runner, "make_executor", lambda *_: RayExecutor(1))
    command = ("run", "--models", "softmax,elu", "--tasks", "naughty_sweep", "--executor", "ray", "--output", "out")
    assert bench(*command).code == 0
    assert ray.most_at_a_time == 1
    lines = Path("marker").read_text(encoding="utf-8").splitlines()
    points = [f"{mode}-{length}-1-sweep" for mode in ("prefill", "train") for length in (1, 2, 3)]
    assert [line.split()[0] for line in lines] == [point for point in points for _ in range(2)]
    assert {found.model for found in RunStore(Path("out")).records().records} == {"softmax", "elu"}


def test_ray_is_not_started_for_no_jobs(fake_ray: FakeRay) -> None:
    assert list(RayExecutor(2).run([], lambda _: None, lambda *_: None)) == []
    assert fake_ray.arguments == {}


def test_ray_joins_the_cluster_that_is_named(
    fake_ray: FakeRay, make_jobs: MakeJobs, monkeypatch: pytest.MonkeyPatch, naughty: object
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    list(RayExecutor(2).run(make_jobs(1), lambda _: None, lambda *_: None))
    assert fake_ray.arguments["address"] == "ray://head:10001"


def test_cancelling_ray_ends_what_is_pending(fake_ray: FakeRay, make_jobs: MakeJobs, naughty: object) -> None:
    executor = RayExecutor(2)
    next(executor.run(make_jobs(3), lambda _: None, lambda *_: None))
    executor.cancel()
    assert len(fake_ray.cancelled) == 2
    assert fake_ray.shut_down


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_ray_itself_runs_a_cell(make_job: MakeJob, naughty: object) -> None:
    executor = RayExecutor(1)
    jobs = [make_job()]
    ((_, outcome),) = executor.run(jobs, lambda _: None, lambda *_: None)
    executor.cancel()
    assert outcome.record.status == "ok"

"""Executors of clusters: Ray by a stand-in and by itself where it is installed, Slurm by submitit's local processes."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from hedgebench.harness import config
from hedgebench.harness.config import RunConfig
from hedgebench.harness.running import clusters, executors, runner
from hedgebench.harness.running.clusters import EXECUTORS, RayExecutor, SlurmExecutor, make_executor
from hedgebench.harness.running.executors import LocalExecutor
from hedgebench.harness.running.job import CellJob, CellOutcome
from hedgebench.harness.running.process import CellProcesses, Listener
from hedgebench.harness.running.sweeping import Turn
from hedgebench.results.names import UsageError
from hedgebench.results.record import Failure
from hedgebench.results.store import RunStore

MakeJob = Callable[..., CellJob]
MakeJobs = Callable[..., list[CellJob]]


class QuickProcesses(CellProcesses):
    """Runs nothing."""

    def prepare(self, recipes: Collection[str]) -> None: ...

    def run(self, job: CellJob, listener: Listener, turn: Turn = nullcontext) -> CellOutcome:
        return CellOutcome(job.record("error", Failure("Fake", "")), [])


def test_executors_are_those_that_a_configuration_may_name() -> None:
    assert tuple(EXECUTORS) == config.EXECUTORS
    assert isinstance(make_executor("local", 1), LocalExecutor)


@pytest.mark.parametrize("name", ["ray", "slurm"])
def test_clusters_are_refused_with_what_to_install_where_it_is_missing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=rf"pip install 'hedgebench\[{name}\]'"):
        make_executor(name, 1)


def test_slurm_is_refused_on_a_machine_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UsageError, match="this machine has none"):
        make_executor("slurm", 1)


class FakeRay:
    """As much of Ray as the executor uses: tasks run when their result is asked for."""

    def __init__(self) -> None:
        self.running: list[Any] = []
        self.asked: list[tuple[int, int]] = []
        self.cancelled: list[Any] = []
        self.most_at_a_time = 0
        self.shut_down = False
        self.arguments: dict[str, Any] = {}

    class exceptions:
        class RayError(Exception): ...

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Resources": {"memory": 500.0}}, {"Resources": {"CPU": 1.0}}]

    def is_initialized(self) -> bool:
        return bool(self.arguments)

    def init(self, **arguments: Any) -> None:
        self.arguments = arguments

    def remote(self, **_: Any) -> Callable[[Any], Any]:
        def wrap(function: Any) -> Any:
            return _Remote(self, function)

        return wrap

    def wait(self, references: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        assert timeout > 0
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
        self.ray, self.function = ray, function

    def options(self, num_cpus: int, memory: int) -> _Remote:
        self.ray.asked.append((num_cpus, memory))
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
    monkeypatch.setattr(executors, "CellProcesses", QuickProcesses)
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


def test_ray_is_asked_for_the_memory_that_cells_need_and_for_no_more_than_a_node_has(
    fake_ray: FakeRay, make_jobs: MakeJobs, naughty: object
) -> None:
    jobs = [replace(job, need_bytes=need) for job, need in zip(make_jobs(3), (300, 900, None), strict=True)]
    list(RayExecutor(2).run(jobs, lambda _: None, lambda *_: None))
    assert fake_ray.asked == [(1, 300), (1, 500), (1, 0)]


def test_a_cell_that_ray_loses_is_an_error_and_the_others_go_on(
    fake_ray: FakeRay, make_jobs: MakeJobs, naughty: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_on_node(jobs: Sequence[CellJob]) -> list[CellOutcome]:
        if jobs[0].cell.seed == 1:
            raise FakeRay.exceptions.RayError("the node died")
        return [CellOutcome(job.record("ok", None), []) for job in jobs]

    monkeypatch.setattr(clusters, "_run_on_node", run_on_node)
    found = {
        job.cell.seed: outcome.record
        for job, outcome in RayExecutor(2).run(make_jobs(3), lambda _: None, lambda *_: None)
    }
    assert [found[seed].status for seed in range(3)] == ["ok", "error", "ok"]
    assert found[1].error == Failure("Lost", "the cluster lost the cell: the node died")


def test_teachers_run_before_their_students(fake_ray: FakeRay, make_job: MakeJob, naughty: object) -> None:
    job = make_job()
    recipes = {"elu": "scratch-conversion", "hedgehog": "scratch-conversion", "softmax": "scratch-conversion"}
    jobs = [
        replace(job, planned=replace(job.planned, cell=replace(job.cell, model=model, recipe=recipe, seed=seed)))
        for seed in (0, 1)
        for model, recipe in (*recipes.items(), ("relu", "scratch"))
    ]
    started: list[str] = []
    list(RayExecutor(2).run(jobs, lambda job: started.append(f"{job.cell.model}{job.cell.seed}"), lambda *_: None))
    assert started == ["softmax0", "relu0", "softmax1", "relu1", "elu0", "hedgehog0", "elu1", "hedgehog1"]


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


class FakeSubmitit:
    """As much of submitit as the executor uses; the job of a seed in `lost` is lost so many times."""

    class LostError(RuntimeError): ...

    class RaisedError(LostError): ...

    def __init__(self, lost: dict[int, int], error: type[Exception]) -> None:
        self.lost, self.error = lost, error
        self.submitted: list[int] = []
        self.cancelled: list[int] = []
        self.parameters: list[dict[str, Any]] = []
        errors = SimpleNamespace(UncompletedJobError=self.LostError, FailedJobError=self.RaisedError)
        self.core = SimpleNamespace(utils=errors)

    def AutoExecutor(self, folder: Path, cluster: str) -> FakeSubmitit:
        assert (folder.name, cluster) == ("slurm", "slurm")
        return self

    def update_parameters(self, **parameters: Any) -> None:
        self.parameters.append(parameters)

    def batch(self) -> Any:
        return nullcontext()

    def submit(self, function: Any, jobs: list[CellJob]) -> Any:
        seed = jobs[0].cell.seed
        self.submitted.append(seed)

        def result() -> Any:
            if self.lost.get(seed, 0):
                self.lost[seed] -= 1
                raise self.error("it is gone")
            return function(jobs)

        return SimpleNamespace(done=lambda: True, result=result, cancel=lambda: self.cancelled.append(seed))


@pytest.mark.parametrize(("is_lost", "submitted"), [(True, [0, 1, 2, 1, 2]), (False, [0, 1, 2])])
def test_what_slurm_loses_is_submitted_once_more_and_what_fails_is_not(
    make_jobs: MakeJobs, naughty: object, monkeypatch: pytest.MonkeyPatch, is_lost: bool, submitted: list[int]
) -> None:
    monkeypatch.setattr(executors, "CellProcesses", QuickProcesses)
    fake = FakeSubmitit({1: 1, 2: 2}, FakeSubmitit.LostError if is_lost else FakeSubmitit.RaisedError)
    monkeypatch.setitem(sys.modules, "submitit", cast(ModuleType, fake))
    found = {
        job.cell.seed: outcome.record.error
        for job, outcome in SlurmExecutor(2).run(make_jobs(3), lambda _: None, lambda *_: None)
    }
    assert fake.submitted == submitted
    assert [error and error.type for _, error in sorted(found.items())] == [
        "Fake",
        "Fake" if is_lost else "Lost",
        "Lost",
    ]


def test_slurm_is_asked_for_what_the_cells_need(
    make_jobs: MakeJobs, naughty: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "CellProcesses", QuickProcesses)
    fake = FakeSubmitit({}, FakeSubmitit.LostError)
    monkeypatch.setitem(sys.modules, "submitit", cast(ModuleType, fake))
    executor = SlurmExecutor(7)
    jobs = [
        replace(job, need_bytes=need) for job, need in zip(make_jobs(3, alone=(2,)), (1, 3 * 2**30, None), strict=True)
    ]
    outcomes = executor.run(jobs, lambda _: None, lambda *_: None)
    next(outcomes)
    executor.cancel()
    assert fake.cancelled == [1]
    list(outcomes)
    shared = {"name": "hedgebench", "cpus_per_task": 1, "timeout_min": 11, "slurm_array_parallelism": 7}
    assert fake.parameters == [{**shared, "mem_gb": 8}, {**shared, "slurm_exclusive": True}]
    list(SlurmExecutor(7).run([replace(job, timeout_s=3600.0) for job in jobs[:2]], lambda _: None, lambda *_: None))
    assert fake.parameters[-1]["timeout_min"] == 70  # each cell has a job of its own


def test_a_cell_is_given_the_gpus_that_share_its_training_and_its_record_says_how_many(
    make_job: MakeJob, naughty: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "CellProcesses", QuickProcesses)
    fake = FakeSubmitit({}, FakeSubmitit.LostError)
    monkeypatch.setitem(sys.modules, "submitit", cast(ModuleType, fake))
    job = make_job(config=RunConfig(models=("softmax",), tasks=("naughty",), devices=2))
    asked = []
    for recipe in ("scratch", "zero-shot"):
        cell = replace(job.cell, device="cuda", recipe=recipe)
        ((_, outcome),) = SlurmExecutor(1).run(
            [replace(job, planned=replace(job.planned, cell=cell))], lambda _: None, lambda *_: None
        )
        asked.append((fake.parameters[-1]["gpus_per_node"], outcome.record.environment.get("devices")))
    assert asked == [(2, 2), (1, None)]

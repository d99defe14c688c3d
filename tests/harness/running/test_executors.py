"""Jobs run side by side up to the number asked for; those that measure time run alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from hedgebench.harness.memory.room import MemoryRoom
from hedgebench.harness.running.executors import LocalExecutor
from hedgebench.harness.running.job import CellJob, CellOutcome, Message
from hedgebench.harness.running.process import CellProcesses, Listener
from hedgebench.harness.running.sweeping import Turn
from hedgebench.results.record import Failure

MakeJob = Callable[..., CellJob]


class FakeProcesses(CellProcesses):
    """Notes who runs beside whom; a job whose seed is `fail_at` raises."""

    def __init__(self, seconds: float = 0.02, fail_at: int = -1) -> None:
        super().__init__()
        self.seconds, self.fail_at = seconds, fail_at
        self.lock = threading.Lock()
        self.now: set[int] = set()
        self.beside: dict[int, int] = {}
        self.together: list[set[int]] = []
        self.order: list[int] = []

    def run(self, job: CellJob, listener: Listener, turn: Turn = nullcontext) -> CellOutcome:
        seed = job.cell.seed
        with self.lock:
            self.order.append(seed)
            self.now.add(seed)
            self.together.append(set(self.now))
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


def test_a_cell_begins_once_its_memory_is_there(local: Local, make_jobs: MakeJobs) -> None:
    executor, processes = local(3)
    executor.room = MemoryRoom(100, workers=3)
    needs = (70, 20, 70, None, 10)
    list(executor.run(with_needs(make_jobs(5), needs), lambda _: None, lambda *_: None))
    assert sorted(processes.order) == list(range(5))
    assert max(sum(needs[seed] or 33 for seed in seeds) for seeds in processes.together) <= 100
    assert max(map(len, processes.together)) > 1


def test_a_cell_larger_than_everything_runs_alone_and_says_so(local: Local, make_jobs: MakeJobs) -> None:
    executor, processes = local(3)
    executor.room = MemoryRoom(2**30, workers=3)
    jobs = with_needs(make_jobs(4), (1, 3 * 2**30, 1, 1))
    records = {job.cell.seed: outcome.record for job, outcome in executor.run(jobs, lambda _: None, lambda *_: None)}
    assert processes.beside[1] == 0
    note = "3.0 GiB of memory were estimated and 1.0 GiB were there, so nothing else ran beside this cell"
    assert [records[seed].notes for seed in range(4)] == [(), (note,), (), ()]


def test_an_interrupt_lets_no_cell_in_that_waits_for_memory(local: Local, make_jobs: MakeJobs) -> None:
    executor, processes = local(2, seconds=0.2)
    executor.room = MemoryRoom(100, workers=2)
    outcomes = executor.run(with_needs(make_jobs(2), (90, 90)), lambda _: None, lambda *_: executor.cancel())
    with pytest.raises(CancelledError):
        list(outcomes)
    assert len(processes.order) == 1


def with_needs(jobs: list[CellJob], needs: Sequence[int | None]) -> list[CellJob]:
    return [replace(job, need_bytes=need) for job, need in zip(jobs, needs, strict=True)]

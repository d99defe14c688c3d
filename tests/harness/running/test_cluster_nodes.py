"""Cells on a real cluster of Ray and on submitit's local processes, one node lost, and what cells leave for the run."""

from __future__ import annotations

import importlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hedgebench.harness.running.clusters import ProgressFiles, RayExecutor, SlurmExecutor
from hedgebench.harness.running.job import CellJob

MakeJob = Callable[..., CellJob]
MakeJobs = Callable[..., list[CellJob]]


def _wait_for(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.05)


@pytest.fixture
def ray_cluster(naughty: object) -> Iterator[Any]:
    """A cluster of one node with one processor, which notices within a second that a node is gone; this process's own.

    Processes that scale clusters and collect their logs are left out, as each imports Ray anew.
    """
    ray: Any = pytest.importorskip("ray")
    noticing = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 200, "health_check_timeout_ms": 1000}
    head = {"num_cpus": 1, "include_dashboard": False, "no_monitor": True, "_system_config": noticing}
    cluster: Any = importlib.import_module("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args={**head, "include_log_monitor": False}
    )
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def _is_below(pid: int, ancestor: int) -> bool:
    """Whether a process was started by another one, or by one that this one started."""
    while pid not in (ancestor, 0):
        pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    return pid == ancestor


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_of_two_nodes_one_is_lost_and_its_cell_runs_again_and_a_cell_that_fails_does_not(
    ray_cluster: Any, make_jobs: MakeJobs, make_job: MakeJob
) -> None:
    """Two cells sleep, one on each node. One loses its node and runs where the other was, once that one is killed."""
    settings = make_job("sleep_once").cell.settings
    jobs, told = list[CellJob](), list[tuple[str, str]]()
    for job in make_jobs(2):
        own = {**settings, "task": {**settings["task"], "marker": f"{settings['task']['marker']}-{job.cell.seed}"}}
        jobs.append(replace(job, timeout_s=None, planned=replace(job.planned, cell=replace(job.cell, settings=own))))
    markers = {job.cell.key: Path(str(job.task_settings["marker"])) for job in jobs}

    def tell(job: CellJob, message: Mapping[str, Any]) -> None:
        told.append((job.cell.key, message["phase"]))

    executor = RayExecutor(1)
    with ThreadPoolExecutor(1) as pool, ExitStack() as at_failure:  # Ray starts nodes in the main thread alone
        at_failure.callback(executor.cancel)
        running = pool.submit(lambda: list(executor.run(jobs, lambda _: None, tell)))
        node = ray_cluster.add_node(num_cpus=1, include_log_monitor=False)
        _wait_for(lambda: all(marker.exists() and marker.read_text() for marker in markers.values()))
        pids = {key: int(marker.read_text()) for key, marker in markers.items()}
        (raylet,) = node.all_processes["raylet"]
        (lost,) = (key for key, pid in pids.items() if _is_below(pid, raylet.process.pid))
        (other,) = pids.keys() - {lost}
        _wait_for(lambda: {(lost, "load"), (other, "load")} <= {*told})
        ray_cluster.remove_node(node, allow_graceful=False)
        os.kill(pids[other], signal.SIGKILL)
        records = {job.cell.key: outcome.record for job, outcome in running.result(timeout=60)}
        at_failure.pop_all()
    _wait_for(lambda: not Path(f"/proc/{pids[lost]}").exists())
    assert records[lost].status == "ok"
    failure = records[other].error
    assert failure is not None
    assert (records[other].status, failure.type) == ("error", "Killed")
    assert not (jobs[0].root / "progress").exists()


@pytest.mark.slow
def test_slurm_s_client_runs_cells_as_this_machine_does_and_those_tell_how_far_they_are(
    make_job: MakeJob, naughty: object
) -> None:
    pytest.importorskip("submitit")
    job, told = make_job("sleep_a_little", need_bytes=2**20), list[str]()
    ((_, outcome),) = SlurmExecutor(1, cluster="local").run(
        [job], lambda _: None, lambda _, message: told.append(message["phase"])
    )
    assert outcome.record.status == "ok"
    assert "load" in told
    assert not (job.root / "progress").exists()


def test_what_a_cell_leaves_for_the_run_reaches_it_once_and_nothing_else_does(
    make_jobs: MakeJobs, naughty: object
) -> None:
    jobs = make_jobs(4)
    left, read = (ProgressFiles(jobs[0].root) for _ in range(2))
    folder, told = jobs[0].root / "progress", list[tuple[int, object]]()

    def look() -> list[tuple[int, object]]:
        told.clear()
        read.pass_on([jobs], lambda job, message: told.append((job.cell.seed, message)))
        return list(told)

    assert look() == []
    counted = {"phase": "train", "done": 3, "total": None, "unit": "it", "loss": 0.5}
    left.leave(jobs[0], {"phase": "load"})
    left.leave(jobs[1], counted)
    left.leave(jobs[1], {**counted, "done": 4})  # too soon
    assert look() == [(0, {"phase": "load"}), (1, counted)]
    assert look() == []
    for number, damaged in enumerate(('{"phase": 1}', '{"phase": "train", "done": 2}', '{"phase": "')):
        (folder / f"{jobs[number].cell.key}.json").write_text(damaged, encoding="utf-8")
    (folder / f"{jobs[3].cell.key}.json").mkdir()
    assert look() == []
    with read:
        assert folder.exists()
    assert not folder.exists()
    folder.symlink_to(jobs[0].root.parent)
    left.leave(jobs[2], {"phase": "load"})
    assert not (jobs[0].root.parent / f"{jobs[2].cell.key}.json").exists()
    assert look() == []

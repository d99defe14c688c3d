"""Cells on a real cluster of Ray and on submitit's local processes, one node lost, and what cells leave for the run."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
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
def ray_cluster() -> Iterator[Any]:
    """A cluster of processes of this machine, which notices within a second that one of its nodes is gone."""
    ray: Any = pytest.importorskip("ray")
    noticing = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 200, "health_check_timeout_ms": 1000}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": noticing}
    cluster: Any = importlib.import_module("ray.cluster_utils").Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_cell_whose_node_ray_loses_runs_again_on_another_and_tells_of_both(
    ray_cluster: Any, make_job: MakeJob, naughty: object
) -> None:
    jobs = [make_job("sleep_once", need_bytes=2**20), make_job("behave")]
    marker = Path(str(jobs[0].task_settings["marker"]))
    node = ray_cluster.add_node(num_cpus=1)
    importlib.import_module("ray").init(address=ray_cluster.address, log_to_driver=False)
    told: list[tuple[str, str]] = []

    def tell(job: CellJob, message: Mapping[str, Any]) -> None:
        told.append((job.cell.key, message["phase"]))

    with ThreadPoolExecutor(1) as pool:  # Ray starts nodes in the main thread alone
        found = pool.submit(lambda: list(RayExecutor(1).run(jobs, lambda _: None, tell)))
        _wait_for(lambda: marker.exists() and (jobs[0].cell.key, "load") in told)
        ray_cluster.add_node(num_cpus=1)
        ray_cluster.remove_node(node, allow_graceful=False)
        outcomes = found.result(timeout=120)
    assert [outcome.record.status for _, outcome in outcomes] == ["ok", "ok"]
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

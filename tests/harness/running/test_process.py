"""Whatever happens to a cell's process, the run learns what it was."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import replace
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from hedgebench.harness.config import RunConfig
from hedgebench.harness.running.job import CellJob, CellOutcome
from hedgebench.harness.running.process import CellProcesses
from hedgebench.harness.temporary import PREFIX
from hedgebench.results.record import Failure

MakeJob = Callable[..., CellJob]
CONFIG = RunConfig(models=("softmax",), tasks=("naughty",))


@pytest.fixture(autouse=True)
def _own_temporary_folder(temporary: Path, monkeypatch: pytest.MonkeyPatch, naughty: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))


def run(job: CellJob) -> CellOutcome:
    outcome = CellProcesses().run(job, lambda _: None)
    assert list(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")) == []
    return outcome


def process_exists(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_cell_that_behaves_gives_its_record_rows_and_log(make_job: MakeJob) -> None:
    outcome = run(make_job())
    assert outcome.record.status == "ok"
    assert outcome.record.main() is not None
    assert outcome.rows == [{"sample": 0, "answer": 1.0}]
    assert outcome.log.splitlines() == ["about to behave"]
    assert outcome.record.notes == ("a note",)
    assert {"load", "build", "swap", "gate", "predict", "score"} == set(outcome.record.timings_s)


def test_a_row_that_failed_fails_the_cell_which_keeps_its_rows_and_metrics(make_job: MakeJob) -> None:
    outcome = run(make_job("failed_row"))
    assert outcome.record.status == "error"
    assert outcome.record.error == Failure("KeyError", "one part", "where it was")
    assert [row.get("status") for row in outcome.rows] == [None, "error"]
    main = outcome.record.main()
    assert main is not None
    assert main.value == 1.0


def test_what_is_raised_after_a_row_failed_does_not_hide_it(make_job: MakeJob) -> None:
    outcome = run(make_job("failed_row_and_more"))
    assert outcome.record.error == Failure("KeyError", "one part", "where it was")
    assert len(outcome.rows) == 2


def test_inputs_are_kept_when_samples_are_logged(make_job: MakeJob) -> None:
    assert run(make_job(config=replace(CONFIG, log_samples=True))).rows[0]["input"] == "what the model was given"


def test_a_process_that_exits_is_a_crash_with_its_exit_code(make_job: MakeJob) -> None:
    record = run(make_job("exit")).record
    assert (record.status, record.error and record.error.type) == ("error", "Crashed")
    assert record.error is not None
    assert "exit code 7" in record.error.message
    assert record.cell_id == make_job("exit").cell.key


def test_a_killed_process_is_told_with_its_signal_and_what_it_printed(make_job: MakeJob) -> None:
    record = run(make_job("kill")).record
    assert record.status == "error"
    assert record.error is not None
    assert record.error.type == "Killed"
    assert "SIGKILL" in record.error.message
    assert "run out of memory" in record.error.message


def test_a_process_over_its_time_limit_is_ended(make_job: MakeJob, tmp_path: Path) -> None:
    record = run(make_job("sleep", timeout_s=4.0)).record
    assert record.status == "timeout"
    assert record.error is not None
    assert "time limit of 4 s" in record.error.message
    assert not process_exists(int((tmp_path / "marker-sleep").read_text(encoding="utf-8")))


def server() -> int:
    """The process that cells are forked from."""
    forkserver.ensure_running()
    pid: int = getattr(forkserver._forkserver, "_forkserver_pid")  # noqa: B009
    return pid


def test_a_job_whose_server_is_killed_is_begun_again(make_job: MakeJob, tmp_path: Path) -> None:
    marker = tmp_path / "marker-sleep_once"
    outcomes: list[CellOutcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(run(make_job("sleep_once"))))
    thread.start()
    while not marker.exists() or not marker.read_text(encoding="utf-8"):
        time.sleep(0.01)
    first = int(marker.read_text(encoding="utf-8"))
    os.kill(server(), signal.SIGKILL)
    thread.join(120)
    assert [outcome.record.status for outcome in outcomes] == ["ok"]
    assert not process_exists(first)


def test_a_server_that_was_killed_before_is_started_again(make_job: MakeJob) -> None:
    os.kill(server(), signal.SIGKILL)
    assert run(make_job()).record.status == "ok"


def test_a_server_that_always_ends_is_told_with_the_limits(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(*_: object) -> None:
        raise EOFError

    monkeypatch.setattr(ForkServerProcess, "start", ended)
    error = run(make_job()).record.error
    assert error is not None
    assert error.type == "Crashed"
    assert re.search("the server of processes ended 3 times before the job did.*open files .ulimit -n. ", error.message)


def test_a_job_that_exits_as_one_whose_server_ended_is_told_with_what_it_printed(make_job: MakeJob) -> None:
    outcome = run(make_job("exit_255"))
    assert outcome.record.error is not None
    assert "exited with code 255" in outcome.record.error.message
    assert "about to exit_255" in outcome.log


def test_a_time_limit_of_a_month_is_waited_for(make_job: MakeJob) -> None:
    assert run(make_job(timeout_s=30 * 86_400.0)).record.status == "ok"


def test_running_out_of_memory_is_its_own_status(make_job: MakeJob) -> None:
    record = run(make_job("memory")).record
    assert (record.status, record.error and record.error.type) == ("oom", "MemoryError")


def test_an_exception_is_kept_with_its_traceback(make_job: MakeJob) -> None:
    record = run(make_job("error")).record
    assert record.status == "error"
    assert record.error is not None
    assert (record.error.type, record.error.message) == ("ValueError", "first line\nsecond line")
    assert "misbehave" in record.error.log_tail


def test_a_batch_that_does_not_fit_is_halved_and_noted_only_when_asked(make_job: MakeJob) -> None:
    outcome = run(make_job("big_batch", config=replace(CONFIG, batch_size="auto")))
    assert outcome.record.status == "ok"
    assert [note for note in outcome.record.notes if "halved" in note] == [
        "evaluation batch halved to 4 after running out of memory",
        "evaluation batch halved to 2 after running out of memory",
    ]
    assert run(make_job("big_batch")).record.status == "oom"


def test_a_device_that_is_not_there_is_told_as_such(make_job: MakeJob) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    job = make_job()
    planned = replace(job.planned, cell=replace(job.cell, device="cuda"))
    record = run(replace(job, planned=planned)).record
    assert record.status == "error"
    assert record.error is not None
    assert "cuda" in record.error.message.lower()


def test_progress_names_every_phase_in_order(make_job: MakeJob) -> None:
    messages: list[Any] = []
    CellProcesses().run(make_job(), messages.append)
    assert [message["phase"] for message in messages] == ["load", "build", "swap", "gate", "predict", "score"]


def test_cancel_ends_what_runs_and_lets_nothing_start(make_job: MakeJob, tmp_path: Path) -> None:
    processes = CellProcesses()
    marker = tmp_path / "marker-sleep"
    outcomes: list[CellOutcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(processes.run(make_job("sleep"), lambda _: None)))
    thread.start()
    while not marker.exists() or not marker.read_text(encoding="utf-8"):
        time.sleep(0.01)
    processes.cancel()
    thread.join(10)
    assert outcomes[0].record.status == "error"
    assert not process_exists(int(marker.read_text(encoding="utf-8")))
    with pytest.raises(CancelledError):
        processes.run(make_job(), lambda _: None)


def test_many_processes_at_a_time_each_tell_their_own_end(make_job: MakeJob, tmp_path: Path) -> None:
    processes = CellProcesses()
    found: dict[int, str] = {}

    def work(i: int, how: str) -> None:
        record = processes.run(make_job(how), lambda _: None).record
        found[i] = record.error.type if record.error else record.status

    hows = ["kill", "behave", "exit", "kill", "behave", "exit"]
    threads = [threading.Thread(target=work, args=(i, how)) for i, how in enumerate(hows)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [found[i] for i in range(len(hows))] == ["Killed", "ok", "Crashed"] * 2


def test_the_worker_leads_its_own_group_so_that_an_interrupt_of_the_terminal_does_not_reach_it(
    make_job: MakeJob, tmp_path: Path
) -> None:
    seen: list[int] = []
    processes = CellProcesses()
    marker = tmp_path / "marker-sleep"

    def note(message: Any) -> None:
        while not marker.exists() or not marker.read_text(encoding="utf-8"):
            time.sleep(0.01)
        seen.append(os.getpgid(int(marker.read_text(encoding="utf-8"))))
        processes.cancel()

    processes.run(make_job("sleep"), note)
    assert seen == [int(marker.read_text(encoding="utf-8"))]


def test_jobs_of_one_model_follow_each_other_in_one_process_with_the_model_built_once(
    make_job: MakeJob, tmp_path: Path
) -> None:
    processes = CellProcesses()
    jobs = [make_job(model_key=key) for key in ("a", "a", "b", None, "b")]
    outcomes, pids = [], []
    for job in jobs:
        outcomes.append(processes.run(job, lambda _: None))
        pids.append((tmp_path / "marker-behave").read_text(encoding="utf-8"))
    processes.cancel()
    assert [outcome.record.status for outcome in outcomes] == ["ok"] * 5
    assert len({*pids}) == 4
    assert pids[0] == pids[1]
    loaded_before = [any("loaded once" in note for note in outcome.record.notes) for outcome in outcomes]
    assert loaded_before == [False, True, False, False, False]
    assert [outcome.log.splitlines() for outcome in outcomes] == [["about to behave"]] * 5
    first, second = (outcome.record for outcome in outcomes[:2])
    assert first.metrics == second.metrics
    assert first.kernels == second.kernels
    assert first.timings_s.keys() == second.timings_s.keys()


@pytest.mark.parametrize("how", ["exit", "kill", "memory", "error"])
def test_a_job_that_fails_costs_the_others_of_its_model_only_a_new_process(
    make_job: MakeJob, how: str, tmp_path: Path
) -> None:
    processes = CellProcesses()
    outcomes, pids = [], []
    for each in ("behave", how, "behave"):
        outcomes.append(processes.run(make_job(each, model_key="a"), lambda _: None))
        pids.append((tmp_path / f"marker-{each}").read_text(encoding="utf-8"))
    processes.cancel()
    statuses = [outcome.record.status for outcome in outcomes]
    assert statuses == ["ok", "oom" if how == "memory" else "error", "ok"]
    assert pids[0] == pids[1] != pids[2]
    assert outcomes[1].log.splitlines() == [f"about to {how}"]


def test_a_time_limit_is_that_of_each_job_in_a_shared_process(make_job: MakeJob) -> None:
    processes = CellProcesses()
    hows = ("behave", "sleep", "behave")
    outcomes = [
        processes.run(make_job(how, model_key="a", timeout_s=3.0 if how == "sleep" else None), lambda _: None)
        for how in hows
    ]
    processes.cancel()
    assert [outcome.record.status for outcome in outcomes] == ["ok", "timeout", "ok"]


def test_a_process_that_waits_for_a_job_ends_with_the_run(make_job: MakeJob, tmp_path: Path) -> None:
    processes = CellProcesses()
    processes.run(make_job(model_key="a"), lambda _: None)
    pid = int((tmp_path / "marker-behave").read_text(encoding="utf-8"))
    assert process_exists(pid)
    processes.cancel()
    end_s = time.monotonic() + 10
    while process_exists(pid) and time.monotonic() < end_s:
        time.sleep(0.01)
    assert not process_exists(pid)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep what they like")
def test_freed_memory_is_kept_and_not_asked_for_again() -> None:
    script = """
import resource
from hedgebench.harness.running.worker import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        b"x" * 2**26
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
keep_freed_memory()
faults()
print(given_back, faults())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    assert kept < given_back / 100

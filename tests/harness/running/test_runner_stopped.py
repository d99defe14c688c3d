"""However a run is stopped, what is done stays done and nothing goes on behind its back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hedgebench.harness.config import make_config
from hedgebench.harness.running.executors import LocalExecutor
from hedgebench.harness.running.runner import _RunUnderWay
from hedgebench.harness.running.tracking import Trackers
from hedgebench.harness.temporary import PREFIX
from hedgebench.results.store import RunStore, StoreError

Bench = Callable[..., Any]
StartBench = Callable[..., "subprocess.Popen[str]"]
NAUGHTY = ("run", "--models", "softmax", "--tasks", "naughty", "--output", "out")


def contents(store: RunStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(store.cells.iterdir())}


def csv(folder: str) -> str:
    return Path(folder, "leaderboard.csv").read_text(encoding="utf-8")


def process_id(marker: Path, run: subprocess.Popen[str]) -> int:
    """The process of the cell that a run has started, once it has written so."""
    while not marker.exists() or not marker.read_text(encoding="utf-8"):
        assert run.poll() is None, run.communicate()
        time.sleep(0.02)
    return int(marker.read_text(encoding="utf-8"))


def ends(pid: int, within_s: float = 10.0) -> bool:
    """Whether a process has ended, or does within the time given."""
    limit = time.monotonic() + within_s
    while time.monotonic() < limit:
        try:
            if Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def test_a_full_disk_ends_the_run_and_its_processes(
    bench: Bench, naughty: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise StoreError("cannot write: No space left on device")

    cancelled: list[LocalExecutor] = []
    cancel = LocalExecutor.cancel

    def note(self: LocalExecutor) -> None:
        cancelled.append(self)
        cancel(self)

    monkeypatch.setattr(LocalExecutor, "cancel", note)
    monkeypatch.setattr(RunStore, "write_record", full)
    finished = bench(*NAUGHTY)
    assert (finished.code, "No space left" in finished.err) == (2, True)
    assert len(cancelled) == 1


def test_an_interrupt_keeps_what_is_done_and_the_rest_goes_on(
    start_bench: StartBench, bench: Bench, tiny: list[str]
) -> None:
    steps = [argument.replace("train.steps=2", "train.steps=40") for argument in tiny]
    command = ("run", "--models", "softmax,elu,relu,exp", *steps, "--workers", "2")
    process = start_bench(*command, "--output", "out")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("[1/4]"):
            break
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; the same command goes on where this one stopped" in rest
    assert "report: " in rest
    assert "Traceback" not in err
    done = contents(RunStore(Path("out")))
    assert 1 <= len(done) < 4
    assert json.loads(Path("out/leaderboard.json").read_text(encoding="utf-8"))
    assert bench(*command, "--output", "out").code == 0
    assert bench(*command, "--output", "whole").code == 0
    after = contents(RunStore(Path("out")))
    assert {name: after[name] for name in done} == done
    assert csv("out") == csv("whole")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_and_no_temporary_folder_outlives_a_stopped_run(
    start_bench: StartBench, naughty: Path, how: signal.Signals, temporary: Path
) -> None:
    process = start_bench(*NAUGHTY, "--set", "how=sleep", env={"TMPDIR": str(temporary)})
    worker = process_id(Path("marker"), process)
    server = int(Path(f"/proc/{worker}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode == (130 if how == signal.SIGTERM else -signal.SIGKILL)
    assert ends(worker)
    assert ends(server)
    if how == signal.SIGTERM:
        assert list(temporary.glob(f"{PREFIX}*")) == []


def test_an_interrupt_from_the_terminal_while_the_first_cell_starts_is_quiet(
    start_bench: StartBench, tiny: list[str]
) -> None:
    process = start_bench("run", "--models", "softmax", *tiny, "--output", "out")
    assert process.stdout is not None
    assert "0 already done" in process.stdout.readline()
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")


def test_a_second_run_in_the_same_folder_is_refused_before_it_touches_anything(bench: Bench, tiny: list[str]) -> None:
    store = RunStore(Path("out"))
    store.create()
    with store.held():
        refused = bench("run", "--models", "softmax", *tiny, "--output", "out")
    assert refused.code == 2
    assert f"process {os.getpid()} is running in out" in " ".join(refused.err.split())
    assert not store.manifest.exists()
    assert bench("run", "--models", "softmax", *tiny, "--output", "out").code == 0


@pytest.mark.parametrize(("fresh", "told"), [(False, "the same command goes on where"), (True, "--fresh begins anew")])
def test_an_interrupted_run_says_what_the_same_command_does(fresh: bool, told: str, tmp_path: Path) -> None:
    console, store = Console(record=True, width=200), RunStore(tmp_path)
    config = make_config({"models": ("elu",), "tasks": ("stdlib",), "fresh": fresh})
    store.create()
    run = _RunUnderWay(config, store, (), Trackers((), tmp_path), console, True, lambda *_: None, lambda _: None)
    assert run._finish(interrupted=True) == 130
    assert f"interrupted; {told}" in console.export_text()

"""Runs a job in a process of its own, and reports its outcome even if the process was killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Collection
from concurrent.futures import CancelledError
from contextlib import nullcontext, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TypeAlias

from ...results.record import Failure, Status
from ...tasks.efficiency.points import PointTask
from ..recipes import RECIPES, STAGE_DEFAULTS
from .job import CellJob, CellOutcome, Message
from .oom_kills import count_oom_kills
from .sweeping import SweepRun, Turn
from .worker import serve

LOG_TAIL_CHARACTERS = 4000

_PRELOAD = ["hedgebench.harness.running.preload"]
_PRELOAD_TRAINING = [*_PRELOAD, "torch._dynamo", "hedgebench.adapters.training.loop"]
"""torch's optimisers import torch._dynamo at their first step, which takes seconds."""

Listener: TypeAlias = Callable[[Message], None]
"""Called with each message of a worker."""


class CellProcesses:
    """The processes that run now, so that an interrupt can end them all.

    Each job has a process of its own, forked from a server process that has imported torch and touched no device: a
    cell starts in a fraction of a second and no cell can reach another.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[ForkServerProcess] = set()
        self._cancelled = False
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOAD)

    def prepare(self, recipes: Collection[str]) -> None:
        """Starts the server process, which imports what cells of these recipes need while the plan is still made."""
        trains = any(not STAGE_DEFAULTS.keys().isdisjoint(RECIPES[recipe].stages) for recipe in recipes)
        self._context.set_forkserver_preload(_PRELOAD_TRAINING if trains else _PRELOAD)
        forkserver.ensure_running()

    def run(self, job: CellJob, listener: Listener, turn: Turn = nullcontext) -> CellOutcome:
        """Runs a job to its end, its death or its time limit; a `PointTask` point by point, each in its turn.

        Raises:
            CancelledError: `cancel` was called before the process could start.
        """
        if not isinstance(job.task, PointTask):
            return self._run_one(job, listener)
        return SweepRun(
            job.task,
            job,
            run_process=lambda point_job: self._run_one(point_job, lambda _: None),
            tell=listener,
            turn=turn,
        ).run()

    def cancel(self) -> None:
        """Ends every running process, and lets no other start."""
        with self._lock:
            self._cancelled = True
            for process in self._running:
                _kill(process)

    def _run_one(self, job: CellJob, listener: Listener) -> CellOutcome:
        with tempfile.TemporaryDirectory(prefix="hedgebench-") as folder:
            return self._run_in(Path(folder), job, listener)

    def _run_in(self, folder: Path, job: CellJob, listener: Listener) -> CellOutcome:
        outcome_path, log_path = folder / "outcome.json", folder / "log"
        log_path.touch()
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(target=serve, args=(job, outcome_path, log_path, sender), daemon=True)
        kills = count_oom_kills()
        self._start(process)
        sender.close()
        reader = threading.Thread(target=_read_messages, args=(receiver, listener), daemon=True)
        reader.start()
        timed_out = not self._wait(process, job.timeout_s)
        reader.join()
        printed = log_path.read_text(encoding="utf-8", errors="replace")
        if outcome_path.exists():
            return CellOutcome.read(outcome_path, printed)
        limit_s = job.timeout_s if timed_out else None
        status, failure = _failure(process.exitcode or 0, limit_s, printed, count_oom_kills() - kills)
        return CellOutcome(job.record(status, failure), [], printed)

    def _start(self, process: ForkServerProcess) -> None:
        with self._lock:
            if self._cancelled:
                raise CancelledError
            process.start()
            self._running.add(process)

    def _wait(self, process: ForkServerProcess, timeout_s: float | None) -> bool:
        """Whether the process ended by itself within its time limit."""
        in_time = bool(wait([process.sentinel], timeout_s))
        with self._lock:  # an exit code can be read once: of two threads that read at a time, one would get 255
            self._running.discard(process)
            _kill(process)
            process.join()
        return in_time


def _failure(code: int, timeout_s: float | None, printed: str, oom_kills: int) -> tuple[Status, Failure]:
    """Status and error of a process that left no outcome; `timeout_s` is None unless the time limit ended it."""
    tail = printed[-LOG_TAIL_CHARACTERS:]
    if timeout_s is not None:
        return "timeout", Failure("Timeout", f"stopped after the time limit of {timeout_s:g} s", tail)
    if code >= 0:
        return "error", Failure("Crashed", f"the process ended with exit code {code} and left no outcome", tail)
    name = signal.Signals(-code).name
    if name == "SIGKILL" and oom_kills > 0:
        return "oom", Failure("Killed", "the system ran out of memory and killed the process", tail)
    hint = "; the system may have run out of memory" if name == "SIGKILL" else ""
    return "error", Failure("Killed", f"the process was killed by {name}{hint}", tail)


def _kill(process: ForkServerProcess) -> None:
    """Ends a process and all that it started."""
    if process.pid is not None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.is_alive():  # it has not become the leader of its group yet
            process.kill()


def _read_messages(receiver: Connection, listener: Listener) -> None:
    with receiver, suppress(EOFError, OSError):
        while True:
            listener(receiver.recv())

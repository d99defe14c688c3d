"""Runs a job in a process of its own, and reports its outcome even if the process was killed."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import CancelledError
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, TypeAlias

from ...results.record import Failure, Status
from ...tasks.efficiency.points import PointTask
from ..memory.oom_kills import count_oom_kills
from ..memory.room import memory_limit
from ..recipes import RECIPES
from ..temporary import place_sockets, remove_abandoned, temporary_folder
from .job import CellJob, CellOutcome, Message
from .sweeping import SweepRun, Turn
from .worker import Order, serve

LOG_TAIL_CHARACTERS = 4000
MOST_TRIES = 3
"""Times that a job is begun, if each time the server of processes ends before the job does."""
LONGEST_WAIT_S = 86_400.0
"""Seconds of one wait for messages; the system's own limit is 24 days."""
EXIT_S = 10.0
"""Seconds in which a process without a job ends by itself."""

_PRELOAD = ["hedgebench.harness.running.preload"]
_PRELOAD_TRAINING = [*_PRELOAD, "torch._dynamo", "hedgebench.adapters.training.loop"]
"""torch's optimisers import torch._dynamo at their first step, which takes seconds."""

Listener: TypeAlias = Callable[[Message], None]
"""Called with each message of a worker."""


@dataclass
class _Worker:
    """A process that measures cells, and the connection to it."""

    process: ForkServerProcess
    connection: Connection
    model_key: str | None

    def send(self, order: Order | None) -> bool:
        """Gives the process its next job, or None to let it end; false if it has ended."""
        try:
            self.connection.send(order)
        except OSError:
            return False
        return True


class CellProcesses:
    """The processes that run now, so that an interrupt can end them all.

    A process is forked from a server process that has imported torch and touched no device, so that it starts in a
    fraction of a second. Each job has a process of its own, and no cell can reach another; but jobs that measure the
    same unchanged model may follow each other in one process, as long as each of them ends well.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[ForkServerProcess] = set()
        self._waiting: list[_Worker] = []
        self._cancelled = False
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOAD)
        place_sockets()

    def prepare(self, recipes: Collection[str]) -> None:
        """Starts the server process, which imports what cells of these recipes need while the plan is still made."""
        trains = any(RECIPES[recipe].trains for recipe in recipes)
        self._context.set_forkserver_preload(_PRELOAD_TRAINING if trains else _PRELOAD)
        remove_abandoned()
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
            waiting, self._waiting = self._waiting, []
            for process in self._running - {worker.process for worker in waiting}:
                _kill(process)
        for worker in waiting:
            self._dismiss(worker)

    def _run_one(self, job: CellJob, listener: Listener) -> CellOutcome:
        """Runs a job in a process; begins again if the server that the process comes from is killed."""
        last = _ServerEndedError("")
        for _ in range(MOST_TRIES):
            try:
                return self._try_one(job, listener)
            except _ServerEndedError as error:
                last = error
        message = f"the server of processes ended {MOST_TRIES} times before the job did; {last}{_limits()}"
        return CellOutcome(job.record("error", Failure("Crashed", message)), [], last.printed)

    def _try_one(self, job: CellJob, listener: Listener) -> CellOutcome:
        """Runs a job in a process.

        Raises:
            _ServerEndedError: The server that processes are forked from has ended, or may have.
        """
        with temporary_folder() as folder:
            order = Order(job, Path(folder, "outcome.json"), Path(folder, "log"))
            order.log_path.touch()
            kills = count_oom_kills()
            worker = self._worker_for(order)
            in_time = _follow(worker, listener, job.timeout_s)
            code = self._end_or_keep(worker, order)
            printed = order.log_path.read_text(encoding="utf-8", errors="replace")
            if order.outcome_path.exists():
                return CellOutcome.read(order.outcome_path, printed)
            if code == _UNKNOWN_EXIT and in_time:
                raise _ServerEndedError(f"or the job's own process exited with code {code}", printed)
            status, failure = _failure(code, None if in_time else job.timeout_s, printed, count_oom_kills() - kills)
            return CellOutcome(job.record(status, failure), [], printed)

    def _worker_for(self, order: Order) -> _Worker:
        """A process that begins with the job: one that has its model already, or a new one."""
        key = order.job.model_key
        with self._lock:
            others = [worker for worker in self._waiting if worker.model_key != key]
            self._waiting = [worker for worker in self._waiting if worker not in others]
            ready = self._waiting.pop() if self._waiting else None
        for worker in others:
            self._dismiss(worker)
        if ready is not None:
            if ready.send(order):
                return ready
            self._end(ready)
        own, theirs = self._context.Pipe()
        process = self._context.Process(target=serve, args=(order, theirs), daemon=True)
        try:
            self._start(process)
        except BaseException:
            own.close()  # if the process has begun nevertheless, this ends it
            raise
        finally:
            theirs.close()
        return _Worker(process, own, key)

    def _start(self, process: ForkServerProcess) -> None:
        with self._lock:
            if self._cancelled:
                raise CancelledError
            try:
                process.start()
            except (EOFError, ConnectionError, BrokenPipeError) as error:
                raise _ServerEndedError("it ended while the process was started") from error
            self._running.add(process)

    def _end_or_keep(self, worker: _Worker, order: Order) -> int:
        """Keeps a process whose job ended well if others may follow, or ends it; gives its exit code."""
        if worker.model_key is not None and order.outcome_path.exists():
            outcome = CellOutcome.read(order.outcome_path)
            with self._lock:
                if outcome.record.status == "ok" and worker.process.is_alive() and not self._cancelled:
                    self._waiting.append(worker)
                    return 0
        return self._end(worker)

    def _dismiss(self, worker: _Worker) -> None:
        """Lets a process that waits for a job end by itself, so that it cleans up."""
        if worker.send(None):
            wait([worker.process.sentinel], EXIT_S)
        self._end(worker)

    def _end(self, worker: _Worker) -> int:
        with self._lock:  # an exit code can be read once: of two threads that read at a time, one would get 255
            self._running.discard(worker.process)
            _kill(worker.process)
            worker.process.join()
        worker.connection.close()
        return worker.process.exitcode or 0


class _ServerEndedError(Exception):
    """The server that processes are forked from ended before the job did, or nothing tells that from the job's own end.

    Args:
        message: What was seen.
        printed: What the job printed.
    """

    def __init__(self, message: str, printed: str = "") -> None:
        super().__init__(message)
        self.printed = printed


_UNKNOWN_EXIT = 255
"""Exit code that multiprocessing gives to a process whose server cannot tell it any more."""


def _limits() -> str:
    """The limits of this process that may keep others from starting, in words; empty if there are none."""
    kinds = {"memory (ulimit -v)": resource.RLIMIT_AS, "open files (ulimit -n)": resource.RLIMIT_NOFILE}
    kinds["processes (ulimit -u)"] = resource.RLIMIT_NPROC
    limits = {name: resource.getrlimit(kind)[0] for name, kind in kinds.items()}
    told = [f"{name} {limit:,}" for name, limit in limits.items() if limit != resource.RLIM_INFINITY]
    return f"; limits of this process: {', '.join(told)}" if told else ""


def _follow(worker: _Worker, listener: Listener, timeout_s: float | None) -> bool:
    """Passes on the messages of a process until its job or the process itself ends; false if time was up before."""
    end_s = None if timeout_s is None else time.monotonic() + timeout_s
    is_open = True
    while True:
        left_s = None if end_s is None else max(0.0, end_s - time.monotonic())
        sources: list[Any] = [worker.process.sentinel, *([worker.connection] if is_open else [])]
        ready = wait(sources, None if left_s is None else min(left_s, LONGEST_WAIT_S))
        if not ready and left_s is not None and left_s > LONGEST_WAIT_S:
            continue
        if not ready:
            return False
        if worker.connection not in ready:
            return True
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            is_open = False
        else:
            if message is None:
                return True
            listener(message)


def _failure(code: int, timeout_s: float | None, printed: str, oom_kills: int) -> tuple[Status, Failure]:
    """Status and error of a process that left no outcome; `timeout_s` is None unless the time limit ended it."""
    tail = printed[-LOG_TAIL_CHARACTERS:]
    if timeout_s is not None:
        return "timeout", Failure("Timeout", f"stopped after the time limit of {timeout_s:g} s", tail)
    if code >= 0:
        return "error", Failure("Crashed", f"the process ended with exit code {code} and left no outcome", tail)
    name = signal.Signals(-code).name
    if name == "SIGKILL" and oom_kills > 0:
        limit = memory_limit()
        why = f"; its control group may hold {limit[0]:,} bytes ({limit[1]})" if limit else ""
        return "oom", Failure("Killed", f"the system ran out of memory and killed the process{why}", tail)
    hint = "; the system may have run out of memory" if name == "SIGKILL" else ""
    return "error", Failure("Killed", f"the process was killed by {name}{hint}", tail)


def _kill(process: ForkServerProcess) -> None:
    """Ends a process and all that it started."""
    if process.pid is not None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.is_alive():  # it has not become the leader of its group yet
            process.kill()

"""Runs one request in a process of its own, and tells what became of it even when the process was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..results.record import SCHEMA_VERSION, Failure, Record, Status, from_json
from ..tasks.base import Row
from .environment import host_environment
from .worker import Request

LOG_TAIL_CHARACTERS = 4000

OnProgress = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Attributes:
        record: Its record; says why when there is no result.
        rows: Its predictions; empty when there are none.
        log: What the process printed.
    """

    record: Record
    rows: list[Row]
    log: str


class CellProcesses:
    """The processes that are running now, so that an interrupt can end them all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self.cancelled = False

    def run(self, request: Request, timeout_s: float | None, on_progress: OnProgress) -> Outcome:
        """Runs a request to its end, its death or its time limit."""
        with tempfile.TemporaryDirectory(prefix="hedgebench-") as folder:
            return self._run_in(Path(folder), request, timeout_s, on_progress)

    def cancel(self) -> None:
        """Ends every running process, and lets no other start."""
        with self._lock:
            self.cancelled = True
            for process in self._running:
                _kill(process)

    def _run_in(self, folder: Path, request: Request, timeout_s: float | None, on_progress: OnProgress) -> Outcome:
        request_path, outcome_path, log_path = folder / "request.json", folder / "outcome.json", folder / "log"
        request_path.write_text(json.dumps(request.to_json()), encoding="utf-8")
        with log_path.open("wb") as log:
            process, reader = self._start(request, [str(request_path), str(outcome_path)], log.fileno(), on_progress)
            status = self._wait(process, timeout_s)
            reader.join()
        printed = log_path.read_text(encoding="utf-8", errors="replace")
        if outcome_path.exists():
            outcome = json.loads(outcome_path.read_text(encoding="utf-8"))
            return Outcome(from_json(outcome["record"]), outcome["rows"], printed)
        return Outcome(failed_record(request, *_failure(process.returncode, status, timeout_s, printed)), [], printed)

    def _start(
        self, request: Request, arguments: list[str], log: int, on_progress: OnProgress
    ) -> tuple[subprocess.Popen[bytes], threading.Thread]:
        read_end, write_end = os.pipe()
        environment = worker_environment(request) | {"HEDGEBENCH_PROGRESS_FD": str(write_end)}
        command = [sys.executable, "-m", "hedgebench.harness.worker", *arguments]
        with self._lock:
            if self.cancelled:
                os.close(read_end)
                os.close(write_end)
                raise KeyboardInterrupt
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=(write_end,),
                start_new_session=True,
            )
            self._running.add(process)
        os.close(write_end)
        reader = threading.Thread(target=_read_progress, args=(read_end, on_progress), daemon=True)
        reader.start()
        return process, reader

    def _wait(self, process: subprocess.Popen[bytes], timeout_s: float | None) -> Status:
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            _kill(process)
            process.wait()
            return "timeout"
        finally:
            with self._lock:
                self._running.discard(process)
        return "error"


def worker_environment(request: Request) -> dict[str, str]:
    """The environment of a worker: threads pinned for every library, and the network shut where data is local."""
    threads = str(request.threads)
    environment = dict(os.environ) | {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if request.offline:
        environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return environment


def failed_record(request: Request, status: Status, failure: Failure) -> Record:
    """The record of a cell that left none itself."""
    cell = request.cell
    return Record(
        schema_version=SCHEMA_VERSION,
        run_id=request.run_id,
        cell_id=cell.key,
        model=cell.model,
        backbone=cell.backbone,
        task=cell.task,
        recipe=cell.recipe,
        scale=cell.scale,
        seed=cell.seed,
        status=status,
        main_metric=request.main_metric,
        metrics=(),
        settings=cell.flat_settings(),
        timings_s={},
        kernels=(),
        data=cell.data if cell.data.id else None,
        environment=dict(host_environment()) | {"device": cell.device, "dtype": cell.dtype},
        limit=cell.limit,
        peer_key=cell.peer_key,
        error=failure,
    )


def _failure(code: int, status: Status, timeout_s: float | None, printed: str) -> tuple[Status, Failure]:
    tail = printed[-LOG_TAIL_CHARACTERS:]
    if status == "timeout":
        return "timeout", Failure("Timeout", f"stopped after the time limit of {timeout_s:g} s", tail)
    if code < 0:
        name = signal.Signals(-code).name
        hint = "; the system may have run out of memory" if name == "SIGKILL" else ""
        return "error", Failure("Killed", f"the process was killed by {name}{hint}", tail)
    return "error", Failure("Crashed", f"the process ended with exit code {code} and left no outcome", tail)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _read_progress(descriptor: int, on_progress: OnProgress) -> None:
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            on_progress(json.loads(line))

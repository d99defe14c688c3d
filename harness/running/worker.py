"""The process of one cell: measures the cell and writes the outcome. If the process dies, other cells go on."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import resource
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ...adapters.base import UnsupportedError
from ...results.record import Failure, Status
from ...tasks.measuring.failures import failure_status
from ..environment import device_environment
from .job import CellJob, CellOutcome, Message
from .measure import Measurement
from .phases import Phases

if TYPE_CHECKING:
    from ...adapters.model_adapter import ModelAdapter


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Options of glibc's `mallopt`, as malloc.h has them."""

Models: TypeAlias = "dict[str, ModelAdapter[Any]]"
"""The model of the last cell of a process, by its key."""


def run_job(job: CellJob, send: Callable[[Message], None], models: Models | None = None) -> CellOutcome:
    """Measures a cell in this process; the outcome has a record even if the cell failed.

    Args:
        job: The cell's job.
        send: Takes messages of progress.
        models: The model of an earlier cell, which is used if it is this cell's too; changed in place.
    """
    phases = Phases(send)
    found = Measurement(job, phases, {} if models is None else models)
    status: Status = "ok"
    error: Failure | None = None
    try:
        if job.point is None:
            found.measure()
        else:
            found.measure_point(job.point)
    except UnsupportedError as refused:
        status, error = "unsupported", Failure(UnsupportedError.__name__, str(refused))
    except Exception as raised:  # the record must say what happened, whatever it was
        status = "oom" if failure_status(raised) == "oom" else "error"
        error = Failure(type(raised).__name__, str(raised), "".join(traceback.format_exception(raised))[-4000:])
    if broken := next((row for row in found.rows if row.get("status") == "error"), None):
        # A later exception may follow from the row's error, as on a device that the error has made useless.
        status, error = "error", Failure(broken.get("error", "Error"), broken["message"], broken.get("log_tail", ""))
    record = job.record(status, error)
    device = device_environment(job.cell.device) if "torch" in sys.modules else {}
    data = record.data and dataclasses.replace(record.data, details={**record.data.details, **found.details})
    record = dataclasses.replace(
        record,
        metrics=tuple(found.metrics),
        timings_s=phases.timings_s,
        kernels=found.kernels,
        environment={**record.environment, **device},
        curves=tuple(found.curves),
        notes=tuple(found.notes),
        data=data,
    )
    return CellOutcome(record, found.rows)


@dataclasses.dataclass(frozen=True)
class Order:
    """A job, and where its process leaves what it finds.

    Attributes:
        job: The job.
        outcome_path: JSON file to write, wholly or not at all.
        log_path: File that takes what is printed.
    """

    job: CellJob
    outcome_path: Path
    log_path: Path


def serve(order: Order, connection: Connection) -> None:
    """Runs a job in this process, which becomes the leader of its own group, and writes the outcome.

    If the job has a model's key, the process then says that it is done and waits for the next job of that model.

    Args:
        order: The first job.
        connection: Takes messages of progress, and None after each job; gives further orders, and None at the end.
    """
    os.setsid()
    try:
        _print_to(order.log_path)
    except FileNotFoundError:  # the run lost its server of processes, and has begun the job again elsewhere
        return
    threading.Thread(target=_end_with_parent, args=(connection.fileno(),), daemon=True).start()
    _pin_environment(order.job)
    if not order.job.task.info.own_device:  # times and memory are measured as programs have them by default
        keep_freed_memory()
    models: Models = {}
    start_bytes = _most_held_bytes()
    while True:
        outcome = run_job(order.job, lambda message: _send(connection, message), models)
        outcome.with_memory(_most_held_bytes() - start_bytes).write(order.outcome_path)
        if order.job.model_key is None:
            return
        sys.stdout.flush()
        sys.stderr.flush()
        _send(connection, None)
        further: Order | None = connection.recv()
        if further is None:
            return
        order = further
        _print_to(order.log_path)


def _most_held_bytes() -> int:
    """Most bytes of memory that this process has held so far; a new process counts those that it was forked with."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _print_to(path: Path) -> None:
    with path.open("ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def _end_with_parent(connection_fileno: int) -> None:
    """Waits until the run no longer reads progress, as after a kill, and ends this process and its children."""
    closed = select.poll()
    closed.register(connection_fileno, 0)
    closed.poll()
    os.killpg(os.getpid(), signal.SIGKILL)


def _send(connection: Connection, message: Message | None) -> None:
    try:
        connection.send(message)
    except BrokenPipeError:  # the run that wants this cell is gone
        os._exit(1)


def _pin_environment(job: CellJob) -> None:
    """Sets the threads of every library, and keeps Hugging Face's libraries offline if the run is."""
    os.environ.update(
        OMP_NUM_THREADS=str(job.threads),
        MKL_NUM_THREADS=str(job.threads),
        TOKENIZERS_PARALLELISM="false",
        HF_HUB_DISABLE_TELEMETRY="1",
    )
    if job.sources.offline:
        os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")


def keep_freed_memory() -> None:
    """Lets glibc keep what this process frees, pieces of 1 GiB or more excepted; other C libraries stay as they are.

    A step of training asks for the same memory again at once, and each page that had been given back is a fault then.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and mallopt(_M_MMAP_THRESHOLD, 2**30):
        mallopt(_M_TRIM_THRESHOLD, -1)

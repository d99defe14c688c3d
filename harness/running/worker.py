"""The process of one cell: reads a request, loads data and model, runs the recipe, measures, writes the outcome.

Whatever happens to this process, other cells go on.
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ...adapters.base import UnsupportedError
from ...results.record import SCHEMA_VERSION, Failure, Record, Status, to_json
from ...tasks.base import Row
from ...tasks.measuring.failures import failure_status
from ..environment import device_environment, host_environment
from .measure import Findings, measure, measure_point
from .request import Progress, Request


def run_request(request: Request, progress: Progress) -> tuple[Record, list[Row]]:
    """The record of a cell, whether it ended well or not, and its predictions."""
    findings = Findings()
    status: Status = "ok"
    error: Failure | None = None
    try:
        if request.point is None:
            measure(request, findings, progress)
        else:
            measure_point(request, request.point, findings, progress)
    except UnsupportedError as refused:
        status, error = "unsupported", Failure("UnsupportedError", str(refused))
    except Exception as raised:  # the record must say what happened, whatever it was
        status = "oom" if failure_status(raised) == "oom" else "error"
        error = Failure(type(raised).__name__, str(raised), "".join(traceback.format_exception(raised))[-4000:])
    if broken := next((row for row in findings.rows if row.get("status") == "error"), None):
        # what is raised afterwards may follow from it, as on a device that it has made useless
        status, error = "error", Failure(broken.get("error", "Error"), broken["message"], broken.get("log_tail", ""))
    return _record(request, findings, status, error), findings.rows


def _record(request: Request, findings: Findings, status: Status, error: Failure | None) -> Record:
    record = failed_record(request, status, error)
    device = device_environment(request.cell.device) if "torch" in sys.modules else {}
    return dataclasses.replace(
        record,
        metrics=tuple(findings.metrics),
        timings_s=findings.timings_s,
        kernels=findings.kernels,
        environment={**record.environment, **device},
        curves=findings.curves,
        notes=tuple(findings.notes),
    )


def failed_record(request: Request, status: Status, failure: Failure | None) -> Record:
    """What is known of a cell before it runs, and why it has no result; the record of one that left none itself."""
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


def serve(request: Request, outcome_path: str, log_path: str, sender: Connection) -> None:
    """Runs a request in this process, which becomes the leader of its own group, and writes the outcome.

    Args:
        request: What to do.
        outcome_path: JSON file to write, whole or not at all.
        log_path: File that takes what is printed.
        sender: Where progress is told.
    """
    os.setsid()
    with Path(log_path).open("ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    threading.Thread(target=_end_with_parent, args=(sender.fileno(),), daemon=True).start()
    _pin_environment(request)
    record, rows = run_request(request, Progress(lambda message: _tell(sender, message)))
    path = Path(outcome_path)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"record": to_json(record), "rows": rows}), encoding="utf-8")
    temporary.replace(path)


def _end_with_parent(sender_fileno: int) -> None:
    """Waits until nobody reads progress any more, as when the run was killed, and ends this process and all its own."""
    closed = select.poll()
    closed.register(sender_fileno, 0)
    closed.poll()
    os.killpg(os.getpid(), signal.SIGKILL)


def _tell(sender: Connection, message: Mapping[str, Any]) -> None:
    try:
        sender.send(message)
    except BrokenPipeError:  # the run that wants this cell is gone
        os._exit(1)


def _pin_environment(request: Request) -> None:
    """Threads for every library, and no network where it is not wanted."""
    os.environ.update(
        OMP_NUM_THREADS=str(request.threads),
        MKL_NUM_THREADS=str(request.threads),
        TOKENIZERS_PARALLELISM="false",
        HF_HUB_DISABLE_TELEMETRY="1",
    )
    if request.offline:
        os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")

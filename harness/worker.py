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
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters.base import Adapter, Capability, UnsupportedError
from ..adapters.spec import parse_spec
from ..results.record import (
    SCHEMA_VERSION,
    CurvePoint,
    DataIdentity,
    Failure,
    KernelUse,
    Metric,
    Record,
    Status,
    to_json,
)
from ..tasks.base import INPUT, Row, Sources, TaskData
from ..tasks.sweep import failure_status
from . import registry
from .cell import Cell
from .environment import device_environment, host_environment
from .recipes import RECIPES

if TYPE_CHECKING:
    from ..adapters.scratch_adapter import ScratchAdapter


@dataclass(frozen=True)
class Request:
    """What a worker is asked to do.

    Attributes:
        cell: The cell.
        run_id: Name of the run.
        main_metric: The metric that ranks models on the task.
        mirror: Folder of data and models, or None.
        cache: Folder for what we derive from data.
        offline: Never touch the network.
        threads: Threads that torch may use.
        auto_batch: Halve the evaluation batch on out-of-memory until it fits.
        checkpoint: File that training resumes from and writes to.
        log_samples: Keep inputs and texts beside the predictions.
    """

    cell: Cell
    run_id: str
    main_metric: str
    mirror: str | None
    cache: str
    offline: bool
    threads: int
    auto_batch: bool
    checkpoint: str
    log_samples: bool = False

    def to_json(self) -> dict[str, Any]:
        """The request as JSON-ready data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Request:
        """The request that `to_json` gave."""
        cell = dict(data["cell"])
        cell["data"] = DataIdentity(**cell["data"])
        cell["settings"] = {
            group: {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
            for group, values in cell["settings"].items()
        }
        return cls(**{**data, "cell": Cell(**cell)})


@dataclass
class Progress:
    """Where a cell stands, told to the parent."""

    send: Callable[[Mapping[str, Any]], None]
    last_s: float = 0.0

    def phase(self, name: str) -> None:
        """A phase begins."""
        self.send({"phase": name})

    def steps(self, done: int, total: int, loss: float) -> None:
        """Training has come this far; told at most ten times a second."""
        now = time.monotonic()
        if done == total or now - self.last_s > 0.1:
            self.last_s = now
            self.send({"phase": "train", "done": done, "total": total, "loss": loss})


@dataclass
class _Findings:
    """What is known of a cell so far; complete when the cell ends well."""

    timings_s: dict[str, float] = field(default_factory=dict)
    metrics: list[Metric] = field(default_factory=list)
    curves: tuple[CurvePoint, ...] = ()
    notes: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    kernels: tuple[KernelUse, ...] = ()

    @contextmanager
    def timed(self, phase: str, progress: Progress) -> Iterator[None]:
        """Adds the seconds that the block takes to `phase`."""
        progress.phase(phase)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings_s[phase] = self.timings_s.get(phase, 0.0) + time.perf_counter() - start


def run_request(request: Request, progress: Progress) -> tuple[Record, list[Row]]:
    """The record of a cell, whether it ended well or not, and its predictions."""
    findings = _Findings()
    status: Status = "ok"
    error: Failure | None = None
    try:
        _measure(request, findings, progress)
    except UnsupportedError as refused:
        status, error = "unsupported", Failure("UnsupportedError", str(refused))
    except Exception as raised:  # the record must say what happened, whatever it was
        status = "oom" if failure_status(raised) == "oom" else "error"
        error = Failure(type(raised).__name__, str(raised), "".join(traceback.format_exception(raised))[-4000:])
    return _record(request, findings, status, error), findings.rows


def _measure(request: Request, findings: _Findings, progress: Progress) -> None:
    cell = request.cell
    task = registry.tasks().get(cell.task)
    sources = Sources(Path(request.mirror) if request.mirror else None, Path(request.cache), request.offline)
    with findings.timed("load", progress):
        data = task.load(cell.settings["task"], sources, cell.limit)
    findings.notes += data.notes
    with findings.timed("build", progress):
        adapter = _build(request, data)
    for stage in RECIPES[cell.recipe].stages:
        with findings.timed(stage, progress):
            STAGES[stage](request, adapter, data, findings, progress)
    with findings.timed("predict", progress):
        findings.rows = _predict(request, adapter, data, findings)
    with findings.timed("score", progress):
        findings.metrics = task.score(findings.rows, cell.settings["task"])
        findings.kernels = adapter.kernels_used()
        findings.metrics += _describe(adapter, data, {metric.name for metric in findings.metrics})


def _build(request: Request, data: TaskData) -> ScratchAdapter:
    import torch

    from ..adapters.precision import Precision
    from ..adapters.scratch_adapter import build_scratch

    cell = request.cell
    torch.set_num_threads(request.threads)
    spec = parse_spec(cell.model, registry.mechanisms())
    backbone = registry.backbones().get(cell.backbone)
    precision = Precision.of(cell.device, cell.dtype)
    return build_scratch(spec, backbone, cell.settings["backbone"], data.shape, cell.seed, precision)


def _train(request: Request, adapter: ScratchAdapter, data: TaskData, findings: _Findings, progress: Progress) -> None:
    from ..adapters.train_settings import TrainSettings
    from ..adapters.training import train

    if data.train is None:
        raise UnsupportedError(f"task {request.cell.task} has no training data for recipe {request.cell.recipe}")
    history = train(
        adapter.model,
        data.train,
        data.validation,
        TrainSettings.of(request.cell.settings["train"]),
        seed=request.cell.seed,
        precision=adapter.precision,
        checkpoint=Path(request.checkpoint),
        progress=progress.steps,
    )
    findings.curves += history.curves
    if history.stopped_early:
        findings.notes.append(
            f"training stopped early after {history.steps} steps, "
            f"at validation loss {history.best_loss:.4g} nats of step {history.best_step}"
        )


STAGES: Mapping[str, Callable[[Request, ScratchAdapter, TaskData, _Findings, Progress], None]] = {"train": _train}


def _predict(request: Request, adapter: Adapter, data: TaskData, findings: _Findings) -> list[Row]:
    task = registry.tasks().get(request.cell.task)
    settings = dict(request.cell.settings["task"])
    while True:
        try:
            rows = task.predict(adapter, data, settings)
            return rows if request.log_samples else [{k: v for k, v in row.items() if k != INPUT} for row in rows]
        except Exception as error:
            batch = settings.get("batch_size")
            if not (request.auto_batch and failure_status(error) == "oom" and isinstance(batch, int) and batch > 1):
                raise
            settings["batch_size"] = batch // 2
            findings.notes.append(f"evaluation batch halved to {batch // 2} after running out of memory")


def _describe(adapter: ScratchAdapter, data: TaskData, measured: set[str]) -> list[Metric]:
    """Sizes that every record carries: parameters, and the decode state at the context length unless measured."""
    count = adapter.parameter_count()
    metrics = [
        Metric("parameters", count.total, "1", None, None, 1),
        Metric("feature_map_parameters", count.feature_maps, "1", None, None, 1),
    ]
    if Capability.LANGUAGE_MODEL in adapter.capabilities and "state_bytes" not in measured:
        size = adapter.state_bytes(1, data.shape.context_length)
        metrics.append(Metric("state_bytes", size, "bytes", None, None, 1))
    return metrics


def _record(request: Request, findings: _Findings, status: Status, error: Failure | None) -> Record:
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

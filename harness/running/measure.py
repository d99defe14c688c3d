"""One cell from data to numbers: loads, builds, runs the recipe's stages, predicts and scores."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...adapters.base import Adapter, Capability, UnsupportedError
from ...adapters.spec import parse_spec
from ...results.record import CurvePoint, KernelUse, Metric
from ...tasks.base import INPUT, Row, Sources, TaskData
from ...tasks.efficiency.points import Point, PointTask, measured_row
from ...tasks.measuring.failures import failure_status
from .. import registry
from ..environment import host_environment
from ..recipes import RECIPES
from ..task_spec import task_of
from ..weights.backbone_names import backbone_from_name
from ..weights.backbone_sources import find_weights, sources_for
from ..weights.locate import Weights, materialise
from .artifacts import Artifacts
from .request import Progress, Request
from .stages import STAGES, Conversion

if TYPE_CHECKING:
    from ...adapters.attention.hybrid import HybridAttention
    from ...adapters.model_adapter import ModelAdapter


@dataclass
class Findings:
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


def measure(request: Request, findings: Findings, progress: Progress) -> None:
    """Runs a cell; what is known by the time it fails is in `findings`."""
    cell = request.cell
    task = task_of(cell.task)
    sources = Sources(Path(request.mirror) if request.mirror else None, Path(request.cache), request.offline)
    if task.info.own_device:
        hold_processors(request.threads)
    with findings.timed("load", progress):
        weights = find_weights(cell.backbone, sources)
        data = task.load(cell.settings["task"], sources_for(weights, sources, fetch=True), cell.limit)
    findings.notes += data.notes
    with findings.timed("build", progress):
        adapter = _build(request, data, weights, sources)
    _convert(request, adapter, data, findings, progress)
    if request.save_to:
        with findings.timed("save", progress):
            _save(request, adapter, weights, sources, findings)
    with findings.timed("predict", progress):
        findings.rows = _predict(request, adapter, data, findings)
    findings.notes += row_notes(findings.rows)
    with findings.timed("score", progress):
        findings.metrics += task.score(findings.rows, cell.settings["task"])
        findings.kernels = adapter.kernels_used()
        findings.metrics += _describe(adapter, data, {metric.name for metric in findings.metrics})
    if hybrids := _hybrids(adapter):
        with findings.timed("control", progress):
            findings.metrics += _without_linear_branch(request, adapter, data, findings, hybrids)


def measure_point(request: Request, fields: Mapping[str, Any], findings: Findings, progress: Progress) -> None:
    """Measures one point of a sweep, in a process that does nothing else; its row is in `findings`."""
    task, settings = task_of(request.cell.task), request.cell.settings["task"]
    assert isinstance(task, PointTask)
    point = Point(**fields)
    sources = Sources(Path(request.mirror) if request.mirror else None, Path(request.cache), request.offline)
    hold_processors(request.threads)
    with findings.timed("load", progress):
        weights = find_weights(request.cell.backbone, sources)
        # A pretrained model may have no positions for the longest length, and yet do the shorter ones.
        own_length = {"seq_lens": (point.seq_len,)} if weights is not None and point.subject == "model" else {}
        data = task.load({**settings, **own_length}, sources, request.cell.limit)
    with findings.timed("build", progress):
        subject = _build_subject(request, point, task, data, weights, sources, findings, progress)
    with findings.timed("predict", progress):
        findings.rows = [measured_row(point, lambda: task.measure(subject, point, settings))]
    findings.notes += [f"{point.mode}: {note}" for note in row_notes(findings.rows)]
    if point.subject != "machine":
        findings.kernels = subject.kernels_used()
    if point.subject == "model":
        findings.metrics += _count_parameters(subject)


def _build_subject(
    request: Request,
    point: Point,
    task: PointTask,
    data: TaskData,
    weights: Weights | None,
    sources: Sources,
    findings: Findings,
    progress: Progress,
) -> Any:
    """The model as the recipe leaves it, its attention layer alone, or the machine's device and type."""
    import torch

    from ...adapters.attention.alone import build_alone
    from ...adapters.attention.shape import shape_of_checkpoint, shape_of_settings
    from ...adapters.precision import Precision

    cell = request.cell
    torch.set_num_threads(request.threads)
    precision = Precision.of(cell.device, cell.dtype)
    if point.subject == "machine":
        return precision
    if point.subject == "model":
        adapter = _build(request, data, weights, sources)
        _convert(request, adapter, data, findings, progress)
        return adapter
    length = data.shape.context_length
    if weights is None:
        shape = shape_of_settings(cell.settings["backbone"], length, cell.seed)
    else:
        shape = shape_of_checkpoint(materialise(weights, sources), length, cell.seed)
    shape = dataclasses.replace(shape, **task.layer_sizes(cell.settings["task"]))
    decodes = Capability.LANGUAGE_MODEL in backbone_from_name(cell.backbone, sources).capabilities
    return build_alone(parse_spec(cell.model, registry.mechanisms()), shape, precision, causal=decodes)


def row_notes(rows: Sequence[Row]) -> list[str]:
    """What rows say in words under `notes`, each once: fallbacks, and what could not be measured beside the numbers."""
    return list(dict.fromkeys(note for row in rows for note in row.get("notes", ())))


def hold_processors(count: int) -> None:
    """Keeps this process to the first so many processors that it may use, so that its threads do not wander."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def _build(request: Request, data: TaskData, weights: Weights | None, sources: Sources) -> ModelAdapter[Any]:
    import torch

    from ...adapters.precision import Precision

    cell = request.cell
    torch.set_num_threads(request.threads)
    backbone = backbone_from_name(cell.backbone, sources)
    settings = cell.settings["backbone"]
    is_pure = task_of(cell.task).info.weights_in_dtype and settings.get("weights") == cell.dtype
    precision = Precision.of(cell.device, cell.dtype, is_pure)
    if weights is None:
        from ...adapters.scratch.build import build_scratch

        spec = parse_spec(cell.model, registry.mechanisms())
        return build_scratch(spec, backbone, settings, data.shape, cell.seed, precision)
    from ...adapters.pretrained.adapter import build_pretrained

    return build_pretrained(
        materialise(weights, sources),
        backbone,
        settings,
        data.shape,
        registry.mechanisms(),
        seed=cell.seed,
        precision=precision,
        in_host_memory=bool(cell.settings.get("distill", {}).get("block_layers")),
        trust_remote_code=request.trust_remote_code,
    )


def _convert(
    request: Request, adapter: ModelAdapter[Any], data: TaskData, findings: Findings, progress: Progress
) -> None:
    """Runs the stages of the recipe."""
    cell = request.cell
    run = Conversion(
        cell=cell,
        spec=parse_spec(cell.model, registry.mechanisms()),
        adapter=adapter,
        data=data,
        artifacts=Artifacts(Path(request.artifacts)),
        checkpoints=Path(request.checkpoints),
        steps=progress.steps,
    )
    for stage in RECIPES[cell.recipe].stages:
        with findings.timed(stage, progress):
            outcome = STAGES[stage](run)
        findings.curves += outcome.curves
        findings.metrics += outcome.metrics
        findings.notes += outcome.notes
    run.to_device()
    if data.wants_teacher and adapter.model.no_teacher:
        findings.notes.append(f"not held against a teacher: {adapter.model.no_teacher}")


def _predict(request: Request, adapter: Adapter, data: TaskData, findings: Findings) -> list[Row]:
    task = task_of(request.cell.task)
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


def _hybrids(adapter: ModelAdapter[Any]) -> list[HybridAttention]:
    from ...adapters.attention.hybrid import HybridAttention

    return [part for part in adapter.model.modules() if isinstance(part, HybridAttention)]


def _without_linear_branch(
    request: Request, adapter: ModelAdapter[Any], data: TaskData, findings: Findings, hybrids: Sequence[HybridAttention]
) -> list[Metric]:
    """The main metric of a hybrid with its window alone: equal to the one with both, the linear branch does no work."""
    for part in hybrids:
        part.linear_branch = False
    task = task_of(request.cell.task)
    rows = _predict(request, adapter, data, findings)
    scored = task.score(rows, request.cell.settings["task"])
    return [
        dataclasses.replace(metric, name=f"{metric.name}_without_linear_branch")
        for metric in scored
        if metric.name == request.main_metric
    ]


def _save(
    request: Request, adapter: ModelAdapter[Any], weights: Weights | None, sources: Sources, findings: Findings
) -> None:
    from ...adapters.pretrained.converted import save_converted
    from ...adapters.pretrained.model import PretrainedModel

    cell = request.cell
    if weights is None or not isinstance(adapter.model, PretrainedModel):
        raise UnsupportedError(f"backbone {cell.backbone} is trained from scratch; only a converted model can be saved")
    provenance = {
        "base": {"backbone": cell.backbone, "source": weights.source, "repo": weights.repo},
        "base_revision": weights.revision or weights.fingerprint,
        "cell": cell.as_dict(),
        "notes": findings.notes,
        "environment": dict(host_environment()),
    }
    save_converted(
        adapter.model,
        Path(request.save_to),
        base=materialise(weights, sources),
        context_length=adapter.shape.context_length,
        provenance=provenance,
    )


def _describe(adapter: ModelAdapter[Any], data: TaskData, measured: set[str]) -> list[Metric]:
    """Sizes that records carry: parameters, and the decode state at the context length where the task wants it."""
    metrics = _count_parameters(adapter)
    decodes = adapter.capabilities & {Capability.LANGUAGE_MODEL, Capability.VECTOR_SEQUENCES}
    if decodes and data.describes_state and "state_bytes" not in measured:
        size = adapter.state_bytes(1, data.shape.context_length)
        metrics.append(Metric("state_bytes", size, "bytes", None, None, 1))
    return metrics


def _count_parameters(adapter: Adapter) -> list[Metric]:
    count = adapter.parameter_count()
    return [
        Metric("parameters", count.total, "1", None, None, 1),
        Metric("feature_map_parameters", count.feature_maps, "1", None, None, 1),
    ]

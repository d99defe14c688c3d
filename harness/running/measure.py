"""One cell from data to numbers: loads data, builds the model, runs the recipe's stages, predicts and scores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...adapters.base import Adapter, Capability, UnsupportedError
from ...results.record import WITHOUT_BRANCH, CurvePoint, KernelUse, Metric, Scalar
from ...results.stats.scores import NOT_PAIRED, stated_pairing
from ...tasks.base import INPUT, NO_TEXT, DataUnavailableError, Row, Sources, TaskData
from ...tasks.efficiency.points import Point, PointTask, measured_row
from ...tasks.lm_eval.foreign_code import sandbox_templates
from ...tasks.measuring.failures import failure_status
from ..audit.audit import control_scores, exposure_metrics, exposure_of
from ..audit.choices import answer_collapse
from ..audit.gate import gate, is_gated, is_taken_over
from ..environment import host_environment
from ..recipes import RECIPES
from ..task_spec import LM_EVAL
from ..weights.build import build_layer, build_model
from ..weights.locate import materialise, sources_for
from .job import CellJob
from .phases import Phases, rows_in
from .stages import STAGES, Conversion

if TYPE_CHECKING:
    from ...adapters.attention.hybrid import HybridAttention
    from ...adapters.audit.exposure import Exposure
    from ...adapters.model_adapter import ModelAdapter
    from ...adapters.precision import Precision


@dataclass
class Measurement:
    """The measurement of a cell, step by step; if a step fails, it holds the results of the steps before.

    Attributes:
        job: The cell's job.
        phases: Times and announces what is going on.
        models: The model of the last cell of this process, by its key; a cell with the same key measures it too.
        metrics: Measured numbers.
        curves: Training curves.
        notes: Remarks for the record.
        details: Further details of the data for the record, which the plan did not know; `not stated` for what a task,
            such as a plugin's, does not state.
        rows: Predictions.
        kernels: Attention kernels that ran.
        exposure: Counts of the tokens that a hybrid scored; None of other models.
    """

    job: CellJob
    phases: Phases
    models: dict[str, ModelAdapter[Any]] = field(default_factory=dict)
    metrics: list[Metric] = field(default_factory=list)
    curves: list[CurvePoint] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    details: dict[str, Scalar] = field(default_factory=lambda: dict.fromkeys(NO_TEXT, "not stated"))
    rows: list[Row] = field(default_factory=list)
    kernels: tuple[KernelUse, ...] = ()
    exposure: Exposure | None = None

    def measure(self) -> None:
        """Measures the whole cell."""
        job, task = self.job, self.job.task
        if task.info.own_device:
            hold_processors(job.threads)
        with self.phases.phase("load"):
            sources = sources_for(job.planned.weights, job.sources, fetch=True)
            if job.cell.task.startswith(LM_EVAL):
                sandbox_templates()
            data = task.load(job.task_settings, sources, job.cell.limit)
            self._check_data(sources)
        self.notes += data.notes
        self.details |= data.details
        with self.phases.phase("build"):
            adapter = self._kept_or_built(data)
        self._state_head(adapter, data)
        self._convert(adapter, data)
        if job.config.save_to:
            with self.phases.phase("save"):
                self._save(adapter)
        if is_gated(job.planned, job.config):
            with self.phases.phase("gate"):
                self._add(*gate(adapter))
        with self.phases.phase("predict"):
            self.rows = self._predict(adapter, data)
        exposure = exposure_metrics(self.exposure)
        self.notes += _notes_of(self.rows)
        with self.phases.phase("score"):
            scored = task.score(self.rows, job.task_settings)
            self.metrics = [*scored, *self.metrics]  # first, as after scoring anew
            main = next((metric for metric in scored if metric.name == task.info.main_metric), None)
            self.details |= stated_pairing(main, self.rows, job.cell.data.fingerprint)
            self.kernels = adapter.kernels_used()
            self.metrics += [*_count_parameters(adapter), *self._state_size(adapter, data)]
        self._add(*exposure)
        if job.config.audit and is_taken_over(job.planned):
            with self.phases.phase("audit"):
                self._add(*answer_collapse(self.rows))
                self.metrics += control_scores(adapter, task.info, lambda: self._scored_again(adapter, data))
        if hybrids := _hybrids(adapter):
            with self.phases.phase("control"):
                self.metrics += self._without_linear_branch(adapter, data, hybrids)

    def measure_point(self, point: Point) -> None:
        """Measures one point of a sweep, in a process that does nothing else."""
        job, task, settings = self.job, cast(PointTask, self.job.task), self.job.task_settings
        hold_processors(job.threads)
        with self.phases.phase("load"):
            # A pretrained model may have positions for the shorter lengths but not for the longest.
            is_limited = job.planned.weights is not None and point.subject == "model"
            own_length = {"seq_lens": (point.seq_len,)} if is_limited else {}
            data = task.load({**settings, **own_length}, job.sources, job.cell.limit)
        with self.phases.phase("build"):
            subject = self._build_subject(point, data)
        with self.phases.phase("predict"):
            self.rows = [measured_row(point, lambda: task.measure(subject, point, settings))]
        self.notes += [f"{point.mode}: {note}" for note in _notes_of(self.rows)]
        self.details |= {**data.details, "label_mapping": "none", **NOT_PAIRED}
        if point.subject != "machine":
            self.kernels = subject.kernels_used()
        if point.subject == "model":
            self.metrics += _count_parameters(subject)

    def _add(self, metrics: Sequence[Metric], notes: Sequence[str]) -> None:
        self.metrics += metrics
        self.notes += notes

    def _scored_again(self, adapter: ModelAdapter[Any], data: TaskData) -> Sequence[Metric]:
        return self.job.task.score(self._predict(adapter, data), self.job.task_settings)

    def _check_data(self, sources: Sources) -> None:
        """Checks that the data are those that the record names.

        Raises:
            DataUnavailableError: The files changed after the run was planned.
        """
        planned = self.job.cell.data
        if planned.source in ("generated", "embedded"):
            return
        found = self.job.task.identify(self.job.task_settings, sources)
        if found.fingerprint != planned.fingerprint:
            raise DataUnavailableError(
                f"{planned.id} changed while the run went on: its fingerprint was {planned.fingerprint} when the run "
                f"was planned and is {found.fingerprint}; start the run again"
            )

    def _state_head(self, adapter: ModelAdapter[Any], data: TaskData) -> None:
        """States which class each output stands for, and notes whether the checkpoint's head was kept.

        Raises:
            UnsupportedError: Nothing is trained, and the head is new, so that it would score at chance.
        """
        if adapter.head_note:
            self.notes.append(adapter.head_note)
        by_id = "outputs are class ids" if (data.shape.num_classes or 1) > 1 else "none"
        self.details["label_mapping"] = adapter.head_note or by_id
        is_trained = self.job.cell.recipe != "zero-shot" or self.job.planned.weights is None
        if data.shape.num_classes is not None and not is_trained and not adapter.has_own_head:
            raise UnsupportedError(
                f"{adapter.head_note}; a head that is not trained scores at chance, so zero-shot is refused: choose a "
                "recipe that trains it"
            )

    def _build_subject(self, point: Point, data: TaskData) -> Any:
        """The model as the recipe leaves it, its attention layer alone, or the machine's device and type."""
        if point.subject == "model":
            adapter = self._build(data)
            self._convert(adapter, data)
            return adapter
        if point.subject == "machine":
            return self._precision()
        job = self.job
        sizes = cast(PointTask, job.task).layer_sizes(job.task_settings)
        return build_layer(job.planned, data.shape.context_length, sizes, self._precision(), job.sources)

    def _precision(self, is_pure: bool = False) -> Precision:
        """The cell's device and type; from here on torch has the job's threads."""
        import torch

        from ...adapters.precision import Precision

        torch.set_num_threads(self.job.threads)
        return Precision.of(self.job.cell.device, self.job.cell.dtype, is_pure)

    def _kept_or_built(self, data: TaskData) -> ModelAdapter[Any]:
        """The model as the process has it from an earlier cell, or a new one."""
        if self.job.model_key is None:
            return self._build(data)
        key = f"{self.job.model_key} {data.shape}"
        if key in self.models:
            self.notes.append("the model was loaded once for several cells, for an earlier one than this")
            adapter = self.models[key]
            adapter.model.forget_kernels()
            return adapter
        self.models.clear()
        self.models[key] = self._build(data)
        return self.models[key]

    def _build(self, data: TaskData) -> ModelAdapter[Any]:
        job, cell = self.job, self.job.cell
        is_pure = job.task.info.weights_in_dtype and cell.settings["backbone"].get("weights") == cell.dtype
        trusted = job.config.trust_remote_code
        return build_model(job.planned, data.shape, self._precision(is_pure), job.sources, trusted)

    def _convert(self, adapter: ModelAdapter[Any], data: TaskData) -> None:
        """Runs the stages of the recipe."""
        conversion = Conversion(self.job, adapter, data, self.phases.steps)
        for stage in RECIPES[self.job.cell.recipe].stages:
            with self.phases.phase(stage):
                result = STAGES[stage](conversion)
            self.curves += result.curves
            self.metrics += result.metrics
            self.notes += result.notes
        conversion.to_device()
        if data.wants_teacher and adapter.model.no_teacher:
            self.notes.append(f"not compared with a teacher: {adapter.model.no_teacher}")

    def _predict(self, adapter: ModelAdapter[Any], data: TaskData) -> list[Row]:
        settings = dict(self.job.task_settings)
        while True:
            try:
                with self._watched(adapter, data), exposure_of(adapter) as self.exposure:
                    rows = self.job.task.predict(adapter, data, settings)
            except Exception as error:
                batch = settings.get("batch_size")
                if not (isinstance(batch, int) and batch > 1 and self.job.config.batch_size == "auto"):
                    raise
                if failure_status(error) != "oom":
                    raise
                settings["batch_size"] = batch // 2
                self.notes.append(f"evaluation batch halved to {batch // 2} after running out of memory")
            else:
                keeps_inputs = self.job.config.log_samples
                return rows if keeps_inputs else [{k: v for k, v in row.items() if k != INPUT} for row in rows]

    def _watched(self, adapter: ModelAdapter[Any], data: TaskData) -> AbstractContextManager[None]:
        """Announces the rows that the model reads, unless the task measures time."""
        return nullcontext() if self.job.task.info.own_device else self.phases.rows(adapter.model, rows_in(data.test))

    def _without_linear_branch(
        self, adapter: ModelAdapter[Any], data: TaskData, hybrids: Sequence[HybridAttention]
    ) -> list[Metric]:
        """The main metric of a hybrid with its window alone; if it equals the hybrid's, the linear branch is idle.

        The predictions keep the answers of the window alone, so that the two scores are compared document by document.
        """
        for hybrid in hybrids:
            hybrid.linear_branch = False
        info, rows = self.job.task.info, self._predict(adapter, data)
        for hybrid in hybrids:
            hybrid.linear_branch = True
        scored = self.job.task.score(rows, self.job.task_settings)
        self.rows = [
            {**own, WITHOUT_BRANCH: {key: value for key, value in other.items() if own.get(key) != value}}
            for own, other in zip(self.rows, rows, strict=True)
        ]
        return [replace(m, name=f"{m.name}_{WITHOUT_BRANCH}") for m in scored if m.name == info.main_metric]

    def _save(self, adapter: ModelAdapter[Any]) -> None:
        from ...adapters.pretrained.converted import save_converted
        from ...adapters.pretrained.model import PretrainedModel

        cell, weights = self.job.cell, self.job.planned.weights
        if weights is None or not isinstance(adapter.model, PretrainedModel):
            raise UnsupportedError(
                f"backbone {cell.backbone} is trained from scratch; only a converted pretrained model can be saved"
            )
        provenance = {
            "base": {"backbone": cell.backbone, "source": weights.source, "repo": weights.repo},
            "base_revision": weights.revision or weights.fingerprint,
            "cell": asdict(cell),
            "notes": self.notes,
            "environment": dict(host_environment()),
        }
        save_converted(
            adapter.model,
            Path(self.job.config.save_to),
            base=materialise(weights, self.job.sources),
            context_length=adapter.shape.context_length,
            provenance=provenance,
        )

    def _state_size(self, adapter: ModelAdapter[Any], data: TaskData) -> list[Metric]:
        """Size of the decode state at the context length, if the task wants it and has not measured it itself."""
        decodes = adapter.capabilities & {Capability.LANGUAGE_MODEL, Capability.VECTOR_SEQUENCES}
        if not decodes or not data.describes_state or any(metric.name == "state_bytes" for metric in self.metrics):
            return []
        size = adapter.state_bytes(1, data.shape.context_length)
        return [Metric("state_bytes", size, "bytes", None, None, 1)]


def hold_processors(count: int) -> None:
    """Restricts this process to the first `count` processors that it may use, so that its threads stay on them."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def _notes_of(rows: Sequence[Row]) -> list[str]:
    """The texts of all rows under `notes`, each once: fallbacks, and what could not be measured."""
    return list(dict.fromkeys(note for row in rows for note in row.get("notes", ())))


def _hybrids(adapter: ModelAdapter[Any]) -> list[HybridAttention]:
    from ...adapters.audit.controls import hybrids

    return hybrids(adapter)


def _count_parameters(adapter: Adapter) -> list[Metric]:
    count = adapter.parameter_count()
    return [
        Metric("parameters", count.total, "1", None, None, 1),
        Metric("feature_map_parameters", count.feature_maps, "1", None, None, 1),
    ]

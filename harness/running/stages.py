"""The stages of a recipe, run on a cell's model one after another before the cell is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...adapters.base import Examples, Settings, UnsupportedError
from ...adapters.mechanisms.softmax import CONTINUED
from ...adapters.spec import ModelSpec
from ...adapters.training.settings import DistillSettings, LoraSettings, TrainSettings
from ...results.record import CurvePoint, Metric
from ...results.tables.row import REFERENCE_MODEL
from ...tasks.base import TaskData
from .. import registry
from ..cell import Cell
from ..recipes import RECIPES
from .artifacts import StageResult, get_or_make
from .job import CellJob

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float
    from torch import Tensor

    from ...adapters.attention_model import AttentionModel
    from ...adapters.model_adapter import ModelAdapter
    from ...adapters.training.distillation import DistillResult
    from ...adapters.training.loop import History
    from ...adapters.training.objective import Objective


@dataclass
class Conversion:
    """A model on its way through the stages of a recipe.

    Attributes:
        job: The cell's job.
        adapter: The present model.
        data: The task's data.
        progress: Called during training with the steps done, the steps in all, and the latest loss.
        made_from: All that the present weights depend on, stage by stage.
    """

    job: CellJob
    adapter: ModelAdapter[Any]
    data: TaskData
    progress: Callable[[int, int, float], None]
    made_from: list[Any] = field(default_factory=list)

    @property
    def cell(self) -> Cell:
        """The cell."""
        return self.job.cell

    @property
    def spec(self) -> ModelSpec:
        """The model that the recipe makes."""
        return self.job.planned.spec

    @property
    def is_pretrained(self) -> bool:
        """Whether the model started from a checkpoint; the others never need transformers, which is slow to import."""
        return bool(self.cell.weights)

    @property
    def model(self) -> AttentionModel:
        """The present model."""
        model: AttentionModel = self.adapter.model
        return model

    @property
    def trains_teacher(self) -> bool:
        """Whether the recipe begins with training the softmax model that the others are converted from."""
        return RECIPES[self.cell.recipe].trains_teacher

    def settings(self, stage: str) -> Settings:
        """The cell's settings of a stage."""
        return self.cell.settings[stage]

    def is_left_out(self, stage: str) -> bool:
        """Whether a stage was set to no steps."""
        return not self.settings(stage)["steps"] and not self.settings(stage)["epochs"]

    def train(self, stage: str, objective: Objective | None = None) -> History:
        """Trains whatever requires gradients on the task's data, or to `objective`.

        Raises:
            UnsupportedError: The task has no training data.
        """
        from ...adapters.training.loop import train
        from ...adapters.training.objective import objective_for

        self.to_device()
        if self.data.train is None:
            raise UnsupportedError(f"task {self.cell.task} has no training data for recipe {self.cell.recipe}")
        return train(
            self.adapter.model,
            self.data.train,
            self.data.validation,
            TrainSettings.of(self.settings(stage), stage),
            objective=objective or objective_for(self.adapter.shape),
            seed=self.cell.seed,
            precision=self.adapter.precision,
            checkpoint=self.job.checkpoints / f"{stage}.pt",
            progress=self.progress,
            devices=self.job.devices,
        )

    def trained(self, stage: str) -> StageResult:
        """Trains as `train` does; the result has the curves and the budget."""
        history = self.train(stage)
        return result_of(history, stage) + self.budget(stage, history)

    def budget(self, stage: str, history: History) -> StageResult:
        """What a stage's training was given: steps, tokens (patches of images) and parameters that it could change.

        Its seconds are among the record's timings.
        """
        assert self.data.train is not None
        shape, inputs = self.adapter.shape, self.data.train.inputs
        per_row = shape.context_length if shape.image_size else math.prod(inputs.shape[1:]) // (shape.input_dim or 1)
        rows = history.steps * int(str(self.settings(stage)["batch_size"]))
        given = {
            "steps": history.steps,
            "tokens": rows * per_row,
            "trained_parameters": sum(p.numel() for p in self.model.parameters() if p.requires_grad),
        }
        return StageResult(metrics=tuple(Metric(f"{stage}_{k}", n, "1", None, None, 1) for k, n in given.items()))

    def to_device(self) -> None:
        """Moves the model to the device of training and measuring; a model distilled in blocks starts in host memory.

        Raises:
            UnsupportedError: It does not fit.
        """
        if self.is_pretrained:
            from ...adapters.pretrained.layer_calls import move_to

            move_to(self.adapter.model, self.adapter.device)

    def keep_teacher(self) -> None:
        """Keeps the base weights before they change, if the task compares the model with its teacher."""
        if self.data.wants_teacher and not self.model.no_teacher:
            self.model.keep_teacher()

    def once(self, stage: str, run: Callable[[], StageResult], of_model: bool = False) -> StageResult:
        """Runs a stage, or takes the weights and the result of another cell that ran it on the same model.

        Args:
            stage: Name of the stage.
            run: Trains the weights that require gradients.
            of_model: Whether the weights depend on the cell's model, and not only on its backbone.
        """
        from ...adapters.training.checkpoint import put_weights, trained_weights

        model, cell = self.model, self.cell
        of_task = filter(None, [registry.tasks().code.get(self.job.task.info.name)])
        more = filter(None, [self.spec.canonical, cell.own_code] if of_model else [])
        made_from = {
            "version": __version__,
            "model_code": cell.model_code,
            "backbone": [cell.backbone, cell.weights, dict(cell.settings["backbone"])],
            "task": [cell.task, cell.task_version, cell.data.fingerprint, dict(cell.settings["task"]), *of_task],
            "run": [cell.seed, cell.device, cell.dtype],
            "stage": [stage, dict(self.settings(stage)), *more],
            "after": list(self.made_from),
        }

        def make() -> tuple[dict[str, Tensor], StageResult]:
            result = run()
            return trained_weights(model), result

        folder = self.job.root / "artifacts"
        result = get_or_make(folder, stage, made_from, make, lambda weights: put_weights(model, weights))
        self.made_from.append(made_from["stage"])
        return result


def result_of(history: History, stage: str) -> StageResult:
    """The curves of a training, named after its stage unless that is `train`, and a note on the weights it kept."""
    prefix = "" if stage == "train" else f"{stage} "
    curves = tuple(replace(point, name=prefix + point.name) for point in history.curves)
    validations = sum(point.split == "validation" and point.name == "loss" for point in history.curves)
    notes = tuple(f"{stage}: {note}" for note in history.notes)
    subject = prefix or "training "
    kept = f"validation loss {history.kept_loss:.4g} of step {history.kept_step}"
    if history.stopped_early:
        return StageResult(curves, notes=(*notes, f"{subject}stopped early after {history.steps} steps, at {kept}"))
    if validations > 1:
        kept += f", the lowest of {validations} up to step {history.steps}" if history.kept_lowest else ", the last"
        return StageResult(curves, notes=(*notes, f"{subject}kept the weights with {kept}"))
    return StageResult(curves, notes=notes)


def divergence(batches: Float[np.ndarray, "batches layers h"], when: str, step: int) -> StageResult:
    """KL divergence of the rows of linear attention from those of softmax attention, given the same queries and keys.

    The metric is the mean over layers, heads and queries, in nats; its standard error is over batches of validation
    rows. Layers and heads are points of a curve, so that they can be plotted.

    Args:
        batches: Divergence of each batch of validation rows, layer and head, in nats.
        when: `swapped` or `distilled`; part of the metric's name.
        step: Steps of distillation taken.
    """
    means = batches.mean((1, 2))
    stderr = float(means.std(ddof=1) / len(means) ** 0.5) if len(means) > 1 else None
    metric = Metric(f"attention_kl_{when}", float(means.mean()), "nats", False, stderr, len(means))
    points = [
        CurvePoint(step, "validation", f"attention_kl/layer {layer}/head {head}", float(value))
        for layer, heads in enumerate(batches.mean(0))
        for head, value in enumerate(heads)
    ]
    return StageResult(tuple(points), (metric,))


def train_from_scratch(conversion: Conversion) -> StageResult:
    """Trains all weights of a new model; one with softmax attention once for all models that convert from it."""
    if not conversion.trains_teacher:
        return conversion.trained("train")
    conversion.model.no_teacher = ""
    return conversion.once("train", lambda: conversion.trained("train"))


def train_teacher(conversion: Conversion) -> StageResult:
    """Fine-tunes the pretrained model with its softmax attention, once for all models that convert from it."""
    conversion.model.requires_grad_(True)
    return conversion.once("teacher", lambda: conversion.trained("teacher"))


def swap(conversion: Conversion) -> StageResult:
    """Replaces softmax attention; a model that was built with its own attention keeps it.

    Raises:
        UnsupportedError: The model cannot have this attention, or a later stage of the recipe cannot train it.
    """
    if "lora" in RECIPES[conversion.cell.recipe].stages and not conversion.is_left_out("lora"):
        from ...adapters.training.lora import projections_of

        projections_of(conversion.adapter.model)  # before distillation, which may take hours
    conversion.adapter.swap_in(conversion.spec, conversion.cell.seed)
    return StageResult()


def distill(conversion: Conversion) -> StageResult:
    """Trains feature maps to give softmax attention's weights; maps that are not distilled are only measured."""
    from ...adapters.training.distillation import freeze_all_but_maps, has_weights_to_compare

    measured = conversion.data.validation or conversion.data.train
    if measured is None or not has_weights_to_compare(conversion.model):
        return StageResult()
    settings = DistillSettings.of(conversion.settings("distill"))

    def run(trained: bool) -> StageResult:
        way = _distill_in_blocks if settings.block_layers else _distill_at_once
        result = way(conversion, settings, measured, trained)
        before = divergence(result.before, "swapped", 0)
        if result.history is None or result.after is None:
            return before
        after = divergence(result.after, "distilled", result.history.steps)
        budget = conversion.budget("distill", result.history)
        return before + result_of(result.history, "distill") + budget + after

    if not conversion.spec.is_distilled:
        return run(trained=False)
    freeze_all_but_maps(conversion.model, settings)
    return conversion.once("distill", lambda: run(trained=True), of_model=True)


def _distill_at_once(
    conversion: Conversion, settings: DistillSettings, measured: Examples, trained: bool
) -> DistillResult:
    from ...adapters.training.distillation import AttentionDistillation, DistillResult, divergence_of_batches

    conversion.to_device()
    objective = AttentionDistillation(conversion.model, settings)
    training = TrainSettings.of(conversion.settings("distill"), "distill")
    before = divergence_of_batches(objective, measured, training, conversion.adapter.precision)
    if not trained:
        return DistillResult(None, before, None)
    history = conversion.train("distill", objective)
    after = divergence_of_batches(objective, measured, training, conversion.adapter.precision)
    return DistillResult(history, before, after)


def _distill_in_blocks(
    conversion: Conversion, settings: DistillSettings, measured: Examples, trained: bool
) -> DistillResult:
    from ...adapters.training.distillation_blockwise import BlockwiseDistillation

    return BlockwiseDistillation(
        conversion.adapter.model,
        conversion.data.train if trained else None,
        conversion.data.validation if trained else measured,
        TrainSettings.of(conversion.settings("distill"), "distill"),
        settings,
        seed=conversion.cell.seed,
        precision=conversion.adapter.precision,
        folder=conversion.job.checkpoints,
        progress=conversion.progress,
    ).run()


def finetune(conversion: Conversion) -> StageResult:
    """Trains all weights on the task; a softmax model that was already trained as teacher is left as it is."""
    if conversion.is_left_out("finetune"):
        return StageResult(notes=("finetune: left out, as it was set to no steps",))
    is_softmax = conversion.spec.mechanism.name == REFERENCE_MODEL
    if is_softmax and conversion.trains_teacher and not conversion.spec.options[CONTINUED]:
        return StageResult(notes=("this is the softmax model that the others were converted from",))
    conversion.keep_teacher()
    conversion.model.requires_grad_(True)
    return conversion.trained("finetune")


def lora(conversion: Conversion) -> StageResult:
    """Trains low-rank adapters on the task and merges them."""
    from ...adapters.training.lora import add_lora

    if conversion.is_left_out("lora"):
        return StageResult(notes=("lora: left out, as it was set to no steps",))
    conversion.keep_teacher()
    adapters = add_lora(conversion.adapter.model, LoraSettings.of(conversion.settings("lora")), conversion.cell.seed)
    result = conversion.trained("lora")
    adapters.merge_and_unload(safe_merge=True)
    return result


STAGES: Mapping[str, Callable[[Conversion], StageResult]] = {
    "train": train_from_scratch,
    "teacher": train_teacher,
    "swap": swap,
    "distill": distill,
    "finetune": finetune,
    "lora": lora,
}

"""What a cell goes through before it is measured: the stages of its recipe, run on its model one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...adapters.base import Settings, UnsupportedError
from ...adapters.spec import ModelSpec
from ...results.tables.aggregate import REFERENCE_MODEL
from ...tasks.base import TaskData
from ..cell import Cell
from .artifacts import Artifacts, Outcome
from .divergence import divergence

if TYPE_CHECKING:
    from torch import Tensor

    from ...adapters.model_adapter import ModelAdapter
    from ...adapters.pretrained.model import PretrainedModel
    from ...adapters.training.loop import History
    from ...adapters.training.objective import Objective
    from ...adapters.training.settings import DistillSettings

Steps = Callable[[int, int, float], None]
"""Told the steps done, those in all, and the latest loss."""


@dataclass
class Conversion:
    """A model on its way through the stages of a recipe.

    Attributes:
        cell: The cell.
        spec: The model that is to come out.
        adapter: The model as it is.
        data: What it is trained on.
        artifacts: What other cells left, and what this one leaves.
        checkpoints: Folder for training to resume from.
        steps: Told how training goes.
        made_from: What the weights depend on so far, stage by stage.
        outcomes: What the stages gave.
    """

    cell: Cell
    spec: ModelSpec
    adapter: ModelAdapter[Any]
    data: TaskData
    artifacts: Artifacts
    checkpoints: Path
    steps: Steps
    made_from: list[Any] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def is_pretrained(self) -> bool:
        """Whether the model started from a checkpoint; the others never need transformers, which is slow to import."""
        return bool(self.cell.weights)

    @property
    def model(self) -> PretrainedModel:
        """The model of a conversion."""
        if not self.is_pretrained:
            cell = self.cell
            raise UnsupportedError(f"recipe {cell.recipe} needs a pretrained backbone; {cell.backbone} is none")
        model: PretrainedModel = self.adapter.model
        return model

    def settings(self, stage: str) -> Settings:
        """The cell's settings of a stage."""
        return self.cell.settings[stage]

    def train(self, stage: str, objective: Objective | None = None) -> History:
        """Trains whatever requires gradients on the task's data, or to `objective`.

        Raises:
            UnsupportedError: The task has no training data.
        """
        from ...adapters.training.loop import train
        from ...adapters.training.objective import objective_for
        from ...adapters.training.settings import TrainSettings

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
            checkpoint=self.checkpoints / f"{stage}.pt",
            progress=self.steps,
        )

    def to_device(self) -> None:
        """Moves the model to where it is trained and measured; one that is distilled in blocks starts in host memory.

        Raises:
            UnsupportedError: It does not fit.
        """
        if self.is_pretrained:
            from ...adapters.pretrained.layer_calls import move_to

            move_to(self.adapter.model, self.adapter.device)

    def keep_teacher(self) -> None:
        """Before base weights change: keeps them, where the task holds the model against what it was converted from."""
        if self.data.wants_teacher and not self.model.no_teacher:
            self.model.keep_teacher()

    def identity(self, stage: str) -> dict[str, Any]:
        """All that the weights depend on once `stage` has run, JSON-ready; the model spec is left to the caller."""
        cell = self.cell
        return {
            "version": __version__,
            "backbone": [cell.backbone, cell.weights, dict(cell.settings["backbone"])],
            "task": [cell.task, cell.task_version, cell.data.fingerprint, dict(cell.settings["task"])],
            "run": [cell.seed, cell.device, cell.dtype],
            "stage": [stage, dict(self.settings(stage))],
            "after": list(self.made_from),
        }

    def is_reference(self) -> bool:
        """Whether this is the softmax model that conversions are measured against."""
        return self.spec.mechanism.name == REFERENCE_MODEL


def outcome_of(history: History, stage: str) -> Outcome:
    """Curves of a training and which weights it kept, named after its stage unless that is `train`."""
    prefix = "" if stage == "train" else f"{stage} "
    curves = tuple(replace(point, name=prefix + point.name) for point in history.curves)
    validations = sum(point.split == "validation" and point.name == "loss" for point in history.curves)
    kept = f"validation loss {history.best_loss:.4g} of step {history.best_step}"
    if history.stopped_early:
        return Outcome(curves, notes=(f"{prefix or 'training '}stopped early after {history.steps} steps, at {kept}",))
    if validations > 1:
        kept += f", the lowest of {validations} up to step {history.steps}"
        return Outcome(curves, notes=(f"{prefix or 'training '}kept the weights with {kept}",))
    return Outcome(curves)


def train_from_scratch(run: Conversion) -> Outcome:
    """Trains all weights of a new model."""
    return outcome_of(run.train("train"), "train")


def train_teacher(run: Conversion) -> Outcome:
    """Fine-tunes the pretrained model with its softmax attention, once for all models that convert from it."""
    from ...adapters.training.checkpoint import put_weights, trained_weights

    model = run.model
    model.requires_grad_(True)
    identity = run.identity("teacher")

    def make() -> tuple[dict[str, Tensor], Outcome]:
        outcome = outcome_of(run.train("teacher"), "teacher")
        return trained_weights(model), outcome

    outcome = run.artifacts.get_or_make("teacher", identity, make, lambda weights: put_weights(model, weights))
    run.made_from.append(identity["stage"])
    return outcome


def swap(run: Conversion) -> Outcome:
    """Replaces softmax attention; a model from scratch was built with what it is to have."""
    if run.is_pretrained:
        from ...adapters.pretrained.adapter import swap_in

        swap_in(run.adapter, run.spec, run.cell.seed)
    return Outcome()


def distill(run: Conversion) -> Outcome:
    """Trains feature maps to give softmax attention's weights; of maps that are not, says how far off they are."""
    from ...adapters.pretrained.adapter import is_distilled
    from ...adapters.training.checkpoint import put_weights, trained_weights
    from ...adapters.training.distillation import freeze_all_but_maps, has_weights_to_compare
    from ...adapters.training.settings import DistillSettings

    model = run.model
    if not has_weights_to_compare(model):
        return Outcome()
    settings = DistillSettings.of(run.settings("distill"))
    way = _distill_in_blocks if settings.block_layers else _distill_at_once
    if not is_distilled(run.spec):
        return way(run, settings, trained=False)
    freeze_all_but_maps(model, settings)
    identity = {**run.identity("distill"), "model": run.spec.canonical}

    def make() -> tuple[dict[str, Tensor], Outcome]:
        outcome = way(run, settings, trained=True)
        return trained_weights(model), outcome

    outcome = run.artifacts.get_or_make("distill", identity, make, lambda weights: put_weights(model, weights))
    run.made_from.append([*identity["stage"], run.spec.canonical])
    return outcome


def _distill_at_once(run: Conversion, settings: DistillSettings, *, trained: bool) -> Outcome:
    from ...adapters.training.distillation import AttentionDistillation, divergence_of_batches
    from ...adapters.training.settings import TrainSettings

    measured = run.data.validation or run.data.train
    if measured is None:
        return Outcome()
    run.to_device()
    objective = AttentionDistillation(run.model, settings)
    training = TrainSettings.of(run.settings("distill"), "distill")

    def measure(when: str, step: int) -> Outcome:
        run.model.eval()
        return divergence(divergence_of_batches(objective, measured, training, run.adapter.precision), when, step)

    before = measure("swapped", 0)
    if not trained:
        return before
    history = run.train("distill", objective)
    return joined(before, outcome_of(history, "distill"), measure("distilled", history.steps))


def _distill_in_blocks(run: Conversion, settings: DistillSettings, *, trained: bool) -> Outcome:
    from ...adapters.training.distillation_blockwise import distill_blockwise
    from ...adapters.training.settings import TrainSettings

    result = distill_blockwise(
        run.model,
        run.data.train if trained else None,
        run.data.validation or run.data.train,
        TrainSettings.of(run.settings("distill"), "distill"),
        settings,
        seed=run.cell.seed,
        precision=run.adapter.precision,
        folder=run.checkpoints,
        progress=run.steps,
    )
    before = divergence(result.before, "swapped", 0)
    if result.history is None or result.after is None:
        return before
    after = divergence(result.after, "distilled", result.history.steps)
    return joined(before, outcome_of(result.history, "distill"), after)


def finetune(run: Conversion) -> Outcome:
    """Trains all weights on the task; the softmax model of a finetuned-conversion has been through that already."""
    if _is_left_out(run, "finetune"):
        return Outcome(notes=("finetune: left out, as it was set to no steps",))
    if run.is_reference() and "teacher" in run.cell.settings:
        return Outcome(notes=("this is the fine-tuned softmax model that the others were converted from",))
    run.keep_teacher()
    run.model.requires_grad_(True)
    return outcome_of(run.train("finetune"), "finetune")


def lora(run: Conversion) -> Outcome:
    """Trains low-rank adapters on the task and merges them."""
    from ...adapters.training.lora import Lora
    from ...adapters.training.settings import LoraSettings

    if _is_left_out(run, "lora"):
        return Outcome(notes=("lora: left out, as it was set to no steps",))
    run.keep_teacher()
    adapters = Lora(run.model, LoraSettings.of(run.settings("lora")), run.cell.seed)
    outcome = outcome_of(run.train("lora"), "lora")
    adapters.merge()
    return outcome


def joined(*outcomes: Outcome) -> Outcome:
    """Several outcomes as one."""
    return Outcome(
        curves=tuple(point for outcome in outcomes for point in outcome.curves),
        metrics=tuple(metric for outcome in outcomes for metric in outcome.metrics),
        notes=tuple(note for outcome in outcomes for note in outcome.notes),
    )


def _is_left_out(run: Conversion, stage: str) -> bool:
    settings = run.settings(stage)
    return not settings["steps"] and not settings["epochs"]


STAGES: Mapping[str, Callable[[Conversion], Outcome]] = {
    "train": train_from_scratch,
    "teacher": train_teacher,
    "swap": swap,
    "distill": distill,
    "finetune": finetune,
    "lora": lora,
}

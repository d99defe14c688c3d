"""Recipes: the stages a model goes through before it is measured, and their hyper-parameters at each scale.

| stage | what it does |
|---|---|
| `train` | trains a model from scratch on the task; before a swap with softmax attention, shared as that of `teacher` |
| `teacher` | fine-tunes the pretrained model on the task with its softmax attention; shared by all models of a run |
| `swap` | replaces softmax attention by the model's own |
| `distill` | trains feature maps to give softmax attention's weights; models whose maps are not distilled skip it |
| `finetune` | trains all weights on the task |
| `lora` | trains low-rank adapters of the attention projections on the task, and merges them |

Conversions are compared with `softmax`: under `finetuned-conversion` and `scratch-conversion` it is the teacher itself,
as in the paper's tables; under the other recipes it is fine-tuned like every other model. Hyper-parameters of `paper`
scale are the paper's if it or later work states them (two epochs of distillation at a rate of 0.01; rates of
fine-tuning; rank 8 and alpha 16); those of `small` and `smoke` are reduced from them.

`scratch-conversion` is no recipe of the paper: its softmax model is small enough to be trained to convergence on two
cores. Its students take a share of the steps in which the task trains that model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from ..adapters.base import Settings, Value
from ..adapters.training.settings import DistillSettings, LoraSettings, TrainSettings
from ..results.names import UsageError
from ..tasks.base import TaskScale


@dataclass(frozen=True)
class Recipe:
    """A named list of stages.

    Attributes:
        name: Name for `--recipe`.
        summary: One line for `bench list recipes`.
        stages: Stages in order; the names are those of `STAGE_DEFAULTS`, and `swap`, which has no settings.
        pretrained: Whether it starts from pretrained weights; None if it can start from either.
    """

    name: str
    summary: str
    stages: tuple[str, ...]
    pretrained: bool | None = True

    @property
    def trains(self) -> bool:
        """Whether a stage trains something."""
        return not STAGE_DEFAULTS.keys().isdisjoint(self.stages)

    @property
    def trains_teacher(self) -> bool:
        """Whether it begins with training the softmax model that the others are converted from, shared by all."""
        return "swap" in self.stages[1:]

    def fits(self, pretrained: bool) -> bool:
        """Whether the recipe can start from such a backbone.

        Args:
            pretrained: Whether the backbone is pretrained.
        """
        return self.pretrained is None or self.pretrained == pretrained


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("scratch", "train from random weights on the task", ("train",), pretrained=False),
        Recipe(
            "scratch-conversion",
            "train from random weights with softmax on the task, then swap, distil and fine-tune",
            ("train", "swap", "distill", "finetune"),
            pretrained=False,
        ),
        Recipe("zero-shot", "measure the model as it is, nothing trained", ("swap",), pretrained=None),
        Recipe(
            "finetuned-conversion",
            "fine-tune with softmax on the task, then swap, distil and fine-tune again",
            ("teacher", "swap", "distill", "finetune"),
        ),
        Recipe(
            "pretrained-conversion",
            "swap and distil the pretrained model, then fine-tune all weights on the task",
            ("swap", "distill", "finetune"),
        ),
        Recipe(
            "pretrained-conversion-lora",
            "swap and distil the pretrained model, then train low-rank adapters on the task",
            ("swap", "distill", "lora"),
        ),
    )
}


def _scales(smoke: TrainSettings, small: TrainSettings, paper: TrainSettings, **more: Value) -> dict[str, Settings]:
    """A stage's settings at each scale; `more` are the stage's own, the same at every scale."""
    return {"smoke": {**vars(smoke), **more}, "small": {**vars(small), **more}, "paper": {**vars(paper), **more}}


def _finetuning(**settings: Value) -> TrainSettings:
    """Fine-tuning as is usual for BERT: Adam's default decay of second moments, and a rate that falls to 0."""
    shared = {"beta2": 0.999, "weight_decay": 0.01, "final_lr": 0.0, "length_pool": 32, "batch_size": 32, "steps": 1}
    return TrainSettings.of({**shared, **settings})


def _distilling(**settings: Value) -> TrainSettings:
    shared = {"beta2": 0.999, "weight_decay": 0.0, "lr": 1e-2, "length_pool": 32, "batch_size": 8, "steps": 1}
    return TrainSettings.of({**shared, **settings})


STAGE_DEFAULTS: Mapping[str, Mapping[str, Settings]] = {
    "train": _scales(
        TrainSettings(steps=60, batch_size=16, lr=2e-3),
        TrainSettings(steps=1000, batch_size=16, lr=1e-3, eval_every=200),
        TrainSettings(steps=100_000, batch_size=64, lr=6e-4, eval_every=1000, patience=10),
    ),
    "teacher": _scales(
        _finetuning(steps=12, batch_size=16, lr=1e-4),
        _finetuning(epochs=2.0, lr=5e-5),
        _finetuning(epochs=5.0, lr=2e-5, eval_rows=10_000),
    ),
    "distill": _scales(
        _distilling(steps=12, eval_rows=32),
        _distilling(epochs=2.0, batch_size=32, eval_rows=128),
        _distilling(epochs=2.0, eval_rows=512),
        attention_factor=1.0,
        output_factor=0.0,
        block_layers=0,
    ),
    "finetune": _scales(
        _finetuning(validate_first=True, steps=12, batch_size=16, lr=1e-4),
        _finetuning(validate_first=True, epochs=1.0, lr=5e-5),
        _finetuning(validate_first=True, epochs=5.0, lr=1e-5, eval_rows=10_000, patience=10),
    ),
    "lora": _scales(
        _finetuning(validate_first=True, steps=12, batch_size=8, lr=1e-3),
        _finetuning(validate_first=True, epochs=1.0, batch_size=8, lr=3e-4),
        _finetuning(validate_first=True, epochs=2.0, batch_size=8, lr=1e-4),
        rank=8,
        alpha=16,
        dropout=0.0,
        train_maps=True,
    ),
}
"""Defaults by stage and scale; a task may override them, and `--set STAGE.KEY=VALUE` overrides both."""

DISTILL_SHARE, FINETUNE_SHARE = 0.25, 0.25
"""Under `scratch-conversion`, steps of distillation and of fine-tuning as shares of those of training."""

FINETUNE_RATE = 0.3
"""Under `scratch-conversion`, the peak rate of fine-tuning as a share of that of training."""

SKIPPABLE = ("finetune", "lora")
"""Stages that `STAGE.steps=0` with `STAGE.epochs=0` leaves out; the model is then measured after distillation."""


def stage_defaults(recipe: Recipe, scale: str, task: TaskScale) -> dict[str, Settings]:
    """Settings of each stage that has any: the scale's, and over them the task's.

    Without pretrained weights, distillation and fine-tuning follow from the settings of training: their batches are the
    same, and fine-tuning has its optimiser too.
    """
    own = {**task.stages, "train": task.train}
    defaults = {stage: STAGE_DEFAULTS[stage][scale] for stage in recipe.stages if stage in STAGE_DEFAULTS}
    if recipe.trains_teacher and "train" in defaults:
        defaults |= _after_training({**defaults["train"], **task.train}, defaults["distill"])
    return {stage: {**settings, **own.get(stage, {})} for stage, settings in defaults.items()}


def _after_training(train: Settings, distill: Settings) -> dict[str, Settings]:
    """Distillation and fine-tuning of a model that was trained with `train`.

    A target loss ends training, and not fine-tuning: all students take the same steps, and the control as many.
    """
    batch = {"batch_size": train["batch_size"], "eval_batch_size": train["eval_batch_size"]}
    finetune = {"lr": FINETUNE_RATE * cast(float, train["lr"]), "validate_first": True, "target_loss": 0.0}
    return {
        "distill": {**distill, **batch, **_share(train, DISTILL_SHARE)},
        "finetune": {**train, **finetune, **_share(train, FINETUNE_SHARE)},
    }


def _share(train: Settings, share: float) -> Settings:
    """A share of the steps of training, with as many validations."""
    every, steps = cast(int, train["eval_every"]), cast(int, train["steps"])
    return {
        "steps": max(1, round(share * steps)),
        "epochs": share * cast(float, train["epochs"]),
        "eval_every": max(1, round(share * every)) if every else 0,
    }


def check_stage(stage: str, settings: Settings, devices: int = 1) -> None:
    """Checks the settings of a stage whose batches some devices share.

    Raises:
        UsageError: A setting has a value that it cannot have.
    """
    left_out = stage in SKIPPABLE and settings["steps"] == 0
    training = TrainSettings.of({**settings, "steps": 1} if left_out else settings, stage)
    if training.batch_size < (least := devices * training.accumulate):
        parts = f" and {stage}.accumulate={training.accumulate}" if training.accumulate > 1 else ""
        raise UsageError(
            f"{stage}.batch_size is {training.batch_size}; allowed with devices={devices}{parts}: {least} or more, "
            "so that each has a row"
        )
    if stage == "distill":
        blocks = DistillSettings.of(settings).block_layers
        if blocks and devices > 1:
            raise UsageError(f"distill.block_layers is {blocks}; allowed with devices={devices}: 0, all layers at once")
    elif stage == "lora":
        LoraSettings.of(settings)

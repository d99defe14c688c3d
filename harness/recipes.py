"""Recipes: the stages a model goes through before it is measured, and their hyper-parameters at each scale.

| stage | what it does |
|---|---|
| `train` | trains a model from scratch on the task |
| `teacher` | fine-tunes the pretrained model on the task with its softmax attention; shared by all models of a run |
| `swap` | replaces softmax attention by the model's own |
| `distill` | trains feature maps to give softmax attention's weights; models whose maps are not distilled skip it |
| `finetune` | trains all weights on the task |
| `lora` | trains low-rank adapters of the attention projections on the task, and merges them |

`softmax` is what conversions are measured against: under `finetuned-conversion` it is the teacher itself, as in the
paper's tables, under the others it is fine-tuned like every other model. Hyper-parameters of `paper` scale are the
paper's where it or later work states them (two epochs of distillation at a rate of 0.01; rates of fine-tuning; rank 8
and alpha 16); `small` and `smoke` are cut down from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..adapters.base import Settings, Value
from ..adapters.training.settings import DistillSettings, LoraSettings, TrainSettings


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

    def fits(self, pretrained: bool) -> bool:
        """Whether it can start from a pretrained backbone, or from one that is not pretrained."""
        return self.pretrained is None or self.pretrained == pretrained


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("scratch", "train from random weights on the task", ("train",), pretrained=False),
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
    """Fine-tuning as BERT's authors and their followers do it: Adam's usual second moment, a rate that falls to 0."""
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

SKIPPABLE = ("finetune", "lora")
"""Stages that `STAGE.steps=0` with `STAGE.epochs=0` leaves out: the score is then that right after distillation."""


def check_stage(stage: str, settings: Settings) -> None:
    """Checks the settings of a stage.

    Raises:
        UsageError: A setting has a value that it cannot have.
    """
    left_out = stage in SKIPPABLE and settings["steps"] == 0
    TrainSettings.of({**settings, "steps": 1} if left_out else settings, stage)
    if stage == "distill":
        DistillSettings.of(settings)
    elif stage == "lora":
        LoraSettings.of(settings)

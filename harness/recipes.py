"""Recipes: the stages a model goes through before it is measured, and their hyper-parameters at each scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..adapters.base import Settings, Value
from ..adapters.train_settings import TrainSettings


@dataclass(frozen=True)
class Recipe:
    """A named list of stages.

    Attributes:
        name: Name for `--recipe`.
        summary: One line for `bench list recipes`.
        stages: Stages in order; the names are those of `STAGE_DEFAULTS`.
    """

    name: str
    summary: str
    stages: tuple[str, ...]


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("scratch", "train from random weights on the task", ("train",)),
        Recipe("zero-shot", "measure the model as it is, nothing trained", ()),
    )
}


def _defaults(settings: TrainSettings) -> dict[str, Value]:
    return dict(vars(settings))


STAGE_DEFAULTS: Mapping[str, Mapping[str, Settings]] = {
    "train": {
        "smoke": _defaults(TrainSettings(steps=60, batch_size=16, lr=2e-3)),
        "small": _defaults(TrainSettings(steps=1000, batch_size=16, lr=1e-3, eval_every=200)),
        "paper": _defaults(TrainSettings(steps=100_000, batch_size=64, lr=6e-4, eval_every=1000, patience=10)),
    }
}
"""Defaults by stage and scale; a task may override them, and `--set STAGE.KEY=VALUE` overrides both."""

"""Recipes name stages that exist, with hyper-parameters that training accepts."""

from __future__ import annotations

import pytest

from hedgebench.adapters.backbone import SCALES
from hedgebench.adapters.train_settings import TrainSettings
from hedgebench.harness.recipes import RECIPES, STAGE_DEFAULTS
from hedgebench.harness.worker import STAGES


def test_every_recipe_is_known_by_its_name_and_its_stages_can_run() -> None:
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert set(recipe.stages) <= set(STAGE_DEFAULTS)
        assert set(recipe.stages) <= set(STAGES)


def test_every_stage_has_defaults_at_every_scale() -> None:
    for scales in STAGE_DEFAULTS.values():
        assert tuple(scales) == SCALES


@pytest.mark.parametrize("scale", SCALES)
def test_training_accepts_its_defaults(scale: str) -> None:
    settings = STAGE_DEFAULTS["train"][scale]
    assert vars(TrainSettings.of(settings)) == dict(settings)

"""Recipes name stages that exist, with hyper-parameters that training accepts."""

from __future__ import annotations

from dataclasses import fields

import pytest

from hedgebench.adapters.backbone import SCALES
from hedgebench.adapters.base import Settings, Value
from hedgebench.adapters.training.settings import TrainSettings
from hedgebench.harness.recipes import RECIPES, STAGE_DEFAULTS, check_stage, stage_defaults
from hedgebench.harness.running.stages import STAGES
from hedgebench.results.names import UsageError
from hedgebench.results.tables.notes import WITH_TEACHER
from hedgebench.tasks.base import TaskScale

TRAINING = {field.name for field in fields(TrainSettings)}
OWN = {
    "distill": {"attention_factor", "output_factor", "block_layers"},
    "lora": {"rank", "alpha", "dropout", "train_maps"},
}


def test_every_recipe_is_known_by_its_name_and_its_stages_can_run() -> None:
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert set(recipe.stages) <= {*STAGE_DEFAULTS, "swap"}
        assert set(recipe.stages) <= set(STAGES)


def test_every_stage_has_defaults_at_every_scale() -> None:
    for scales in STAGE_DEFAULTS.values():
        assert tuple(scales) == SCALES


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("stage", STAGE_DEFAULTS)
def test_every_stage_accepts_its_defaults(stage: str, scale: str) -> None:
    settings = STAGE_DEFAULTS[stage][scale]
    check_stage(stage, settings)
    used = {*TRAINING, *OWN.get(stage, ())}
    assert set(settings) == used


def test_the_paper_scale_has_the_papers_numbers() -> None:
    distill, lora = STAGE_DEFAULTS["distill"]["paper"], STAGE_DEFAULTS["lora"]["paper"]
    assert (distill["epochs"], distill["lr"], distill["batch_size"]) == (2.0, 0.01, 8)
    assert (lora["rank"], lora["alpha"]) == (8, 16)


@pytest.mark.parametrize("stage", ["finetune", "lora"])
def test_fine_tuning_may_be_left_out(stage: str) -> None:
    check_stage(stage, {**STAGE_DEFAULTS[stage]["smoke"], "steps": 0})


def test_distillation_may_not_be_left_out_by_steps() -> None:
    with pytest.raises(ValueError, match=r"distill.steps is 0"):
        check_stage("distill", {**STAGE_DEFAULTS["distill"]["smoke"], "steps": 0})


def test_a_loss_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="one above 0"):
        check_stage("distill", {**STAGE_DEFAULTS["distill"]["smoke"], "attention_factor": 0.0})


@pytest.mark.parametrize(("key", "value"), [("rank", 0), ("alpha", 0), ("dropout", 1.0)])
def test_low_rank_adapters_have_their_ranges(key: str, value: float) -> None:
    with pytest.raises(ValueError, match="allowed"):
        check_stage("lora", {**STAGE_DEFAULTS["lora"]["smoke"], key: value})


def test_recipes_fit_the_backbones_they_start_from() -> None:
    assert [name for name, recipe in RECIPES.items() if recipe.fits(pretrained=False)] == [
        "scratch",
        "scratch-conversion",
        "zero-shot",
    ]
    assert not {"scratch", "scratch-conversion"} & {n for n, recipe in RECIPES.items() if recipe.fits(pretrained=True)}


def test_conversions_that_train_a_softmax_model_first_have_it_as_teacher() -> None:
    found = {name for name, recipe in RECIPES.items() if recipe.trains_teacher}
    assert found == set(WITH_TEACHER) == {"finetuned-conversion", "scratch-conversion"}


def test_students_of_a_model_from_scratch_take_shares_of_its_training() -> None:
    task = TaskScale(train={"epochs": 8.0, "steps": 400, "eval_every": 10, "lr": 1.0, "batch_size": 7})
    settings = stage_defaults(RECIPES["scratch-conversion"], "small", task)
    for stage in ("distill", "finetune"):
        check_stage(stage, settings[stage])
        shared = {key: settings[stage][key] for key in ("epochs", "steps", "eval_every", "batch_size")}
        assert shared == {"epochs": 2.0, "steps": 100, "eval_every": 2, "batch_size": 7}
    assert settings["finetune"]["lr"] == pytest.approx(0.3)
    assert settings["distill"]["lr"] == STAGE_DEFAULTS["distill"]["small"]["lr"]


def test_a_task_has_the_last_word_on_each_stage() -> None:
    own: dict[str, Settings] = {"distill": {"steps": 9}, "finetune": {"steps": 0, "epochs": 0.0}, "lora": {"steps": 1}}
    settings = stage_defaults(RECIPES["scratch-conversion"], "smoke", TaskScale(stages=own))
    assert list(settings) == ["train", "distill", "finetune"]
    assert (settings["distill"]["steps"], settings["finetune"]["steps"]) == (9, 0)
    other = stage_defaults(RECIPES["finetuned-conversion"], "smoke", TaskScale(train={"steps": 99}, stages=own))
    assert other["teacher"] == STAGE_DEFAULTS["teacher"]["smoke"]


@pytest.mark.parametrize(
    ("stage", "changed", "message"),
    [
        ("train", {"batch_size": 3}, "train.batch_size is 3; allowed with devices=4: 4 or more"),
        ("lora", {"batch_size": 6, "accumulate": 3}, "devices=4 and lora.accumulate=3: 12 or more"),
        ("distill", {"block_layers": 2}, "distill.block_layers is 2; allowed with devices=4: 0"),
    ],
)
def test_settings_that_several_devices_cannot_share_are_refused(
    stage: str, changed: dict[str, Value], message: str
) -> None:
    settings = {**STAGE_DEFAULTS[stage]["smoke"], **changed}
    check_stage(stage, settings)
    with pytest.raises(UsageError, match=message):
        check_stage(stage, settings, devices=4)

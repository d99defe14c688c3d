"""Conversions of models trained from scratch: one softmax model for all, swapped, distilled, fine-tuned, resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hedgebench.harness import registry
from hedgebench.harness.commands.convert import convert
from hedgebench.harness.config import make_config
from hedgebench.harness.plan import make_plan, make_sources
from hedgebench.harness.recipes import RECIPES
from hedgebench.harness.running import phases
from hedgebench.harness.running.job import CellJob, Message
from hedgebench.harness.running.worker import run_job
from hedgebench.results.names import UsageError
from hedgebench.results.record import Record

from .test_conversion import value_of

RECALL = {
    **{
        "backbone.width": "16",
        "backbone.mlp_width": "32",
        "train_samples": "256",
        "validation_samples": "16",
        "test_samples": "16",
        "vocab_size": "8",
        "length": "8",
    },
    **{
        "train.steps": "8",
        "train.batch_size": "8",
        "distill.steps": "8",
        "finetune.steps": "8",
        "train.eval_every": "4",
    },
}
DIGITS = {"train.steps": "3", "distill.steps": "3", "finetune.steps": "3", "train.batch_size": "4"}


def run_cells(
    root: Path,
    models: str,
    task: str = "associative_recall",
    send: Callable[[Message], None] = lambda _: None,
    **values: Any,
) -> list[Record]:
    """The records of a run, measured in this process."""
    stages = RECIPES[values.get("recipe", "scratch-conversion")].stages
    chosen = {
        key: value
        for key, value in {"associative_recall": RECALL}.get(task, {}).items()
        if "." not in key or key.split(".")[0] in ("backbone", *stages)
    }
    config = make_config(
        {
            **{"models": tuple(models.split(",")), "tasks": (task,), "recipe": "scratch-conversion", "offline": True},
            **{**values, "set": {**chosen, **values.get("set", {})}},
        }
    )
    records = []
    for planned in make_plan(config):
        assert planned.problem is None, planned.problem
        record = run_job(CellJob(planned, config, root, make_sources(config), threads=1), send).record
        assert record.status == "ok", record.error
        records.append(record)
    return records


def artifacts(root: Path, stage: str) -> list[Path]:
    return list((root / "artifacts").glob(f"{stage}-*/weights.safetensors"))


def test_all_models_of_a_run_share_one_softmax_model_and_softmax_is_that(tmp_path: Path) -> None:
    softmax, hedgehog, plain, elu = run_cells(tmp_path, "softmax,hedgehog,hedgehog:distill=false,elu")
    assert list(hedgehog.timings_s)[2:6] == ["train", "swap", "distill", "finetune"]
    assert len(artifacts(tmp_path, "train")) == 1
    assert len(artifacts(tmp_path, "distill")) == 1
    for record in (hedgehog, plain, elu):
        assert any(note.startswith("train: weights taken from train-") for note in record.notes)
        assert value_of(record, "attention_kl_swapped") > 0
    assert value_of(plain, "attention_kl_swapped") == value_of(hedgehog, "attention_kl_swapped")
    assert value_of(hedgehog, "attention_kl_distilled") < value_of(hedgehog, "attention_kl_swapped")
    distilled = {record.model for record in (softmax, hedgehog, plain, elu) if _has(record, "attention_kl_distilled")}
    assert distilled == {"hedgehog"}
    assert "this is the softmax model that the others were converted from" in softmax.notes
    assert {kernel.form for kernel in softmax.kernels} == {"softmax"}
    assert not any(kernel.form == "softmax" for kernel in hedgehog.kernels)
    assert _trained(softmax) == _trained(hedgehog) == _trained(elu)
    assert {"distill loss", "finetune loss"} <= {point.name for point in hedgehog.curves}
    assert len({record.peer_key for record in (softmax, hedgehog, plain, elu)}) == 1
    assert value_of(hedgehog, "distill_trained_parameters") == value_of(hedgehog, "feature_map_parameters")
    assert value_of(hedgehog, "finetune_trained_parameters") == value_of(hedgehog, "parameters")
    assert value_of(hedgehog, "train_trained_parameters") == value_of(softmax, "parameters")
    per_step = hedgehog.settings["train.batch_size"], value_of(hedgehog, "train_tokens")
    assert per_step[1] / value_of(hedgehog, "train_steps") % int(str(per_step[0])) == 0
    assert not _has(softmax, "distill_steps")


def test_two_mechanisms_of_a_session_share_no_maps_though_they_have_one_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for code in ("first", "second", "second"):
        monkeypatch.setitem(registry.mechanisms().code, "hedgehog", code)
        run_cells(tmp_path, "hedgehog")
    assert len(artifacts(tmp_path, "train")) == 1
    assert len(artifacts(tmp_path, "distill")) == 2


def _has(record: Record, name: str) -> bool:
    return any(metric.name == name for metric in record.metrics)


def _trained(record: Record) -> list[float]:
    """Losses of the training of the softmax model."""
    return [point.value for point in record.curves if point.name == "loss"]


def test_the_softmax_model_is_that_of_the_recipe_scratch(tmp_path: Path) -> None:
    (converted,) = run_cells(tmp_path, "softmax")
    (scratch,) = run_cells(tmp_path, "softmax", recipe="scratch")
    assert _trained(converted) == _trained(scratch)
    assert value_of(converted, "accuracy") == value_of(scratch, "accuracy")


def test_the_control_goes_on_training_for_as_long_as_the_students(tmp_path: Path) -> None:
    softmax, control, elu = run_cells(tmp_path, "softmax,softmax:continued=true,elu", set={"train.target_loss": "9"})
    steps = [
        [point.step for point in record.curves if point.name == "finetune loss" and point.split == "train"]
        for record in (softmax, control, elu)
    ]
    assert steps[0] == []
    assert steps[1] == steps[2] == list(range(1, 9))
    assert len(artifacts(tmp_path, "train")) == 1
    assert any("stopped early" in note for note in control.notes)  # the target ends training alone


def test_the_score_right_after_distillation_is_that_without_fine_tuning(tmp_path: Path) -> None:
    left_out = {"finetune.steps": "0"}
    (record,) = run_cells(tmp_path, "hedgehog", set=left_out)
    assert "finetune: left out, as it was set to no steps" in record.notes
    assert value_of(record, "attention_kl_distilled") < value_of(record, "attention_kl_swapped")


@pytest.mark.parametrize(("task", "model"), [("lra/digits", "encoder"), ("icl_regression", "gpt")])
def test_encoders_and_models_of_vectors_convert(tmp_path: Path, task: str, model: str) -> None:
    quick = {"icl_regression": {"train_samples": "32", "validation_samples": "8", "test_samples": "8"}}.get(task, {})
    hedgehog, t2r = run_cells(tmp_path, "hedgehog,t2r", task, set={**DIGITS, **quick})
    assert hedgehog.backbone == model
    assert value_of(hedgehog, "attention_kl_distilled") < value_of(hedgehog, "attention_kl_swapped")
    assert value_of(t2r, "attention_kl_swapped") > 0
    assert len(artifacts(tmp_path, "train")) == 1


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("phase", ["train", "distill", "finetune"])
def test_a_cell_that_was_killed_goes_on_and_ends_as_one_that_was_not(
    tmp_path: Path, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phases, "MESSAGES_EVERY_S", 0.0)
    often: dict[str, Any] = {"set": {f"{stage}.checkpoint_every_s": "0" for stage in ("train", "distill", "finetune")}}
    (expected,) = run_cells(tmp_path / "whole", "hedgehog", **often)
    stages: list[str] = []
    resumed: list[int] = []

    def stop(message: Message) -> None:
        stages.append(message["phase"]) if "done" not in message else None
        if stages[-1] == phase and message.get("done") == 5:
            raise Killed

    def watch(message: Message) -> None:
        resumed.extend([message["done"]] if "done" in message else [])

    with pytest.raises(Killed):
        run_cells(tmp_path / "killed", "hedgehog", send=stop, **often)
    (found,) = run_cells(tmp_path / "killed", "hedgehog", send=watch, **often)
    assert resumed[0] == 5
    assert found.curves == expected.curves
    assert [m for m in found.metrics if m.unit != "s"] == [m for m in expected.metrics if m.unit != "s"]


@pytest.mark.parametrize(
    ("given", "steps"),
    [({}, (200, 50, 50)), ({"train.steps": "80"}, (80, 20, 20)), ({"finetune.steps": "7"}, (200, 50, 7))],
)
def test_students_take_shares_of_the_training_that_is_asked_for(
    given: dict[str, str], steps: tuple[int, int, int]
) -> None:
    values = {"models": ("elu",), "tasks": ("associative_recall",), "recipe": "scratch-conversion", "set": given}
    (planned,) = make_plan(make_config(values))
    train, distill, finetune = (planned.cell.settings[stage] for stage in ("train", "distill", "finetune"))
    assert (train["steps"], distill["steps"], finetune["steps"]) == steps
    assert (train["target_loss"], finetune["target_loss"]) == (0.01, 0.0)
    assert train["batch_size"] == distill["batch_size"] == finetune["batch_size"] == 64
    assert distill["lr"] == 0.01
    assert finetune["lr"] == pytest.approx(0.0003)
    assert (finetune["validate_first"], finetune["final_lr"]) == (True, train["final_lr"])


def test_it_distils_all_layers_at_once() -> None:
    values = {"models": ("hedgehog",), "tasks": ("associative_recall",), "recipe": "scratch-conversion"}
    with pytest.raises(UsageError, match="block_layers is 1; backbone gpt is trained as a whole"):
        make_plan(make_config({**values, "set": {"distill.block_layers": "1"}}))


def test_no_folder_can_hold_such_a_model(tmp_path: Path) -> None:
    base = make_config({"models": ("hedgehog",), "tasks": ("associative_recall",), "recipe": "scratch-conversion"})
    with pytest.raises(UsageError, match="scratch-conversion converts a model that it trains itself, which no folder"):
        convert(base, tmp_path / "new", Console(quiet=True))

"""Conversions from plan to record: stages in order, a teacher trained once, models that come back from disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import pandas as pd
import pytest
import torch
from rich.console import Console

from hedgebench.adapters.base import ModelShape, UnsupportedError
from hedgebench.adapters.training import checkpoint, distillation_blockwise
from hedgebench.adapters.training.settings import DistillSettings
from hedgebench.harness import registry
from hedgebench.harness.commands.convert import convert
from hedgebench.harness.commands.reporting import rescore
from hedgebench.harness.config import make_config
from hedgebench.harness.plan import make_plan, make_sources
from hedgebench.harness.running.artifacts import StageResult
from hedgebench.harness.running.job import CellJob, CellOutcome
from hedgebench.harness.running.stages import Conversion, _distill_in_blocks, swap
from hedgebench.harness.running.worker import run_job
from hedgebench.results.names import UsageError
from hedgebench.results.record import Record
from hedgebench.results.stats.evidence import kept_scores
from hedgebench.results.store import RunStore
from hedgebench.results.tables.aggregate import group_seeds
from hedgebench.results.tables.conversion import branch_effect
from hedgebench.tasks.base import TaskData

from ...adapters.swapped import swapped
from ...adapters.tiny_models import save_tiny

QUICK = {
    f"{stage}.{key}": value
    for stage in ("teacher", "distill", "finetune", "lora")
    for key, value in {"steps": "3", "epochs": "0", "batch_size": "4", "eval_rows": "4", "eval_batch_size": "2"}.items()
}


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """SST-2 of 40 rows, WikiText-2 of 6 articles a split, and a tiny BERT and Llama."""
    folder = tmp_path / "mirror" / "datasets" / "nyu-mll" / "glue" / "sst2"
    folder.mkdir(parents=True)
    words = ["good film", "bad film", "a dull and dire day", "fine acting and a good cast"]
    for split, rows in (("train", 40), ("validation", 8)):
        table = {"sentence": [words[i % 4] for i in range(rows)], "label": [1 - i % 4 // 2 for i in range(rows)]}
        table["idx"] = list(range(rows))
        pd.DataFrame(table).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    wikitext = tmp_path / "mirror" / "datasets" / "Salesforce" / "wikitext" / "wikitext-2-v1"
    wikitext.mkdir(parents=True)
    lines = [line for i in range(6) for line in ("", f" = Article {i} = \n", "", f" {words[i % 4] * 5} \n")]
    for split in ("train", "validation", "test"):
        pd.DataFrame({"text": lines}).to_parquet(wikitext / f"{split}-00000-of-00001.parquet")
    save_tiny("bert", tmp_path / "bert")
    save_tiny("llama", tmp_path / "llama")
    return tmp_path / "mirror"


def run_outcomes(
    mirror: Path, models: str, task: str = "glue/sst2", backbone: str = "bert", save_to: str = "", **values: object
) -> list[CellOutcome]:
    """What each cell of a run gives, measured in this process."""
    root = mirror.parent
    stages = values.pop("stages", ("teacher", "distill", "finetune"))
    assert isinstance(stages, tuple)
    overrides = {key: value for key, value in QUICK.items() if key.split(".")[0] in stages}
    more = values.pop("set", {})
    assert isinstance(more, dict)
    config = make_config(
        {
            "models": tuple(models.split(",")),
            "tasks": (task,),
            "backbone": f"hf:{root / backbone}",
            "mirror": str(mirror),
            "offline": True,
            "save_to": save_to,
            "set": {**overrides, **more},
            **values,
        }
    )
    outcomes = []
    for planned in make_plan(config):
        assert planned.problem is None, planned.problem
        outcome = run_job(CellJob(planned, config, root, make_sources(config), threads=1), lambda _: None)
        assert outcome.record.status == "ok", outcome.record.error
        outcomes.append(outcome)
    return outcomes


def run_cells(mirror: Path, models: str, *arguments: str, **values: Any) -> list[Record]:
    """The records of a run, measured in this process."""
    return [outcome.record for outcome in run_outcomes(mirror, models, *arguments, **values)]


def value_of(record: Record, name: str) -> float:
    (metric,) = (metric for metric in record.metrics if metric.name == name)
    assert metric.value is not None
    return metric.value


def test_a_finetuned_conversion_goes_through_its_stages_and_shares_its_teacher(mirror: Path) -> None:
    softmax, hedgehog, elu, none = run_cells(mirror, "softmax,hedgehog,elu,none")
    stated = [record.data.details for record in (softmax, hedgehog, elu, none) if record.data]
    assert {(each["tokenizer_source"], each["prefix_token"], each["paired_by"]) for each in stated} == {
        ("folder", "[CLS]", "documents")
    }
    assert len({each["paired_digest"] for each in stated}) == 1
    assert {each["label_mapping"] for each in stated} == {
        "a new head for 2 classes was drawn: the checkpoint has none of that size"
    }
    assert softmax.recipe == "finetuned-conversion"
    assert list(hedgehog.timings_s)[2:6] == ["teacher", "swap", "distill", "finetune"]
    assert len(list((mirror.parent / "artifacts").glob("teacher-*/weights.safetensors"))) == 1
    assert len(list((mirror.parent / "artifacts").glob("distill-*/weights.safetensors"))) == 1
    assert any("made earlier in this run" in note for note in hedgehog.notes)
    assert not any("made earlier" in note for note in softmax.notes)
    assert any("converted from" in note for note in softmax.notes)
    assert value_of(hedgehog, "attention_kl_distilled") < value_of(hedgehog, "attention_kl_swapped")
    assert value_of(elu, "attention_kl_swapped") > 0
    assert not any(metric.name.startswith("attention_kl") for metric in (*softmax.metrics, *none.metrics))
    assert {kernel.form for kernel in softmax.kernels} == {"softmax"}
    assert {kernel.form for kernel in hedgehog.kernels if kernel.phase != "distill"} <= {"chunk", "naive"}
    assert {(kernel.form, kernel.backend) for kernel in hedgehog.kernels if kernel.phase == "distill"} == {
        ("tiled", "torch")
    }
    names = {point.name for point in hedgehog.curves}
    assert {"teacher loss", "distill loss", "finetune loss", "attention_kl/layer 1/head 3"} <= names
    assert {softmax.peer_key} == {record.peer_key for record in (hedgehog, elu, none)}


def test_the_continued_control_trains_as_long_as_the_students_and_shares_their_teacher(mirror: Path) -> None:
    """Softmax itself is the teacher, and stops before the others are fine-tuned."""
    softmax, continued, hedgehog = run_cells(mirror, "softmax,softmax:continued=true,hedgehog")
    assert len(list((mirror.parent / "artifacts").glob("teacher-*/weights.safetensors"))) == 1
    steps = [
        sum(point.name == "finetune loss" and point.split == "train" for point in record.curves)
        for record in (softmax, continued, hedgehog)
    ]
    assert steps[0] == 0
    assert steps[1] == steps[2] > 0
    assert continued.model == "softmax:continued=true"
    assert {kernel.form for kernel in continued.kernels} == {"softmax"}
    with pytest.raises(UsageError, match="is a control for recipes that begin with training a teacher"):
        run_cells(mirror, "softmax:continued=true", recipe="pretrained-conversion", stages=("distill", "finetune"))


def test_a_record_says_which_weights_validation_chose_and_of_how_many(mirror: Path) -> None:
    kept = {"teacher.keep_last": "false", "finetune.keep_last": "false"}
    chosen = {
        **kept,
        "teacher.eval_every": "1",
        "finetune.patience": "1",
        "finetune.lr": "10",
        "finetune.eval_every": "1",
    }
    (record,) = run_cells(mirror, "elu", set=chosen)
    losses = [p for p in record.curves if p.name == "teacher loss" and p.split == "validation"]
    best = min(losses, key=lambda point: point.value)
    assert (
        f"teacher kept the weights with validation loss {best.value:.4g} of step {best.step}, "
        "the lowest of 3 up to step 3"
    ) in record.notes
    assert any(note.startswith("finetune stopped early after ") for note in record.notes)
    (record,) = run_cells(mirror, "elu", set={**chosen, "teacher.keep_last": "true"})
    losses = [p for p in record.curves if p.name == "teacher loss" and p.split == "validation"]
    assert f"teacher kept the weights with validation loss {losses[-1].value:.4g} of step 3, the last" in record.notes


def test_artifacts_give_what_training_would(mirror: Path) -> None:
    (first,) = run_cells(mirror, "hedgehog")
    (second,) = run_cells(mirror, "hedgehog")
    assert sum("made earlier in this run" in note for note in second.notes) == 2
    for name in ("accuracy", "attention_kl_swapped", "attention_kl_distilled"):
        assert value_of(first, name) == value_of(second, name)
    assert first.curves == second.curves


def test_other_settings_make_other_artifacts(mirror: Path) -> None:
    run_cells(mirror, "hedgehog")
    run_cells(mirror, "hedgehog", set={"distill.lr": "0.001"})
    run_cells(mirror, "hedgehog:map=softmax")
    artifacts = mirror.parent / "artifacts"
    assert len(list(artifacts.glob("teacher-*/weights.safetensors"))) == 1
    assert len(list(artifacts.glob("distill-*/weights.safetensors"))) == 3


def test_other_code_of_models_makes_other_artifacts(
    make_job: Callable[..., CellJob], naughty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "trained_weights", lambda _: {"weight": torch.ones(1)})
    monkeypatch.setattr(checkpoint, "put_weights", lambda *_: None)
    ran: list[int] = []

    def run(code: int) -> StageResult:
        ran.append(code)
        return StageResult()

    job, adapter, data = make_job(), cast(Any, SimpleNamespace(model=None)), TaskData(ModelShape(8), test=None)
    for code in (1, 2, 2):
        settings = {**job.cell.settings, "teacher": {"steps": 1}}
        cell = replace(job.cell, weights="0123abc", model_code=code, settings=settings)
        changed = replace(job, planned=replace(job.planned, cell=cell))
        Conversion(changed, adapter, data, lambda *_: None).once("teacher", partial(run, code))
    assert ran == [1, 2]


def test_other_code_of_an_own_mechanism_or_task_makes_other_artifacts_of_what_depends_on_it(
    make_job: Callable[..., CellJob], naughty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "trained_weights", lambda _: {"weight": torch.ones(1)})
    monkeypatch.setattr(checkpoint, "put_weights", lambda *_: None)
    ran: list[tuple[str, str, str]] = []
    job, own_tasks = make_job(), cast(dict[str, str], registry.tasks().code)

    def once(stage: str, of_model: str, of_task: str) -> None:
        monkeypatch.setitem(own_tasks, job.task.info.name, of_task)
        settings = {**job.cell.settings, "teacher": {"steps": 1}, "distill": {"steps": 1}}
        cell = replace(job.cell, weights="0123abc", own_code=of_model, settings=settings)
        changed = replace(job, planned=replace(job.planned, cell=cell))
        adapter = cast(Any, SimpleNamespace(model=None))
        conversion = Conversion(changed, adapter, TaskData(ModelShape(8), test=None), lambda *_: None)

        def run() -> StageResult:
            ran.append((stage, of_model, of_task))
            return StageResult()

        conversion.once(stage, run, of_model=stage == "distill")

    for of_model, of_task in (("", ""), ("a", ""), ("b", ""), ("b", ""), ("b", "c")):
        once("teacher", of_model, of_task)
        once("distill", of_model, of_task)
    assert [key[1:] for key in ran if key[0] == "teacher"] == [("", ""), ("b", "c")]
    assert [key[1:] for key in ran if key[0] == "distill"] == [("", ""), ("a", ""), ("b", ""), ("b", "c")]


def test_blocks_of_layers_give_a_record_like_all_at_once(mirror: Path) -> None:
    (whole,) = run_cells(mirror, "hedgehog", set={"distill.clip_norm": "0"})
    (blocks,) = run_cells(mirror, "hedgehog", set={"distill.block_layers": "1", "distill.clip_norm": "0"})
    for name in ("attention_kl_swapped", "attention_kl_distilled"):
        # Not closer, because blocks are distilled without the base model's dropout.
        assert value_of(blocks, name) == pytest.approx(value_of(whole, name), rel=2e-2)


@pytest.mark.parametrize("trained", [True, False])
def test_blocks_validate_on_no_row_that_they_train_on(trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without validation rows all layers at once keep their last weights, and so do blocks."""
    blocks = MagicMock()
    monkeypatch.setattr(distillation_blockwise, "BlockwiseDistillation", blocks)
    conversion, train = cast(Any, MagicMock()), object()
    conversion.data.train, conversion.data.validation = train, None
    conversion.settings.return_value = {"steps": 1, "batch_size": 1, "lr": 0.1}
    _distill_in_blocks(conversion, DistillSettings(block_layers=1), cast(Any, train), trained)
    assert blocks.call_args.args[1:3] == ((train, None) if trained else (None, train))


def test_fine_tuning_that_is_left_out_gives_the_score_after_distillation(mirror: Path) -> None:
    (record,) = run_cells(mirror, "hedgehog", set={"finetune.steps": "0"})
    assert "finetune: left out, as it was set to no steps" in record.notes


@pytest.mark.parametrize("recipe", ["pretrained-conversion", "pretrained-conversion-lora"])
def test_decoders_convert_on_text(mirror: Path, recipe: str) -> None:
    last = "lora" if recipe.endswith("lora") else "finetune"
    sizes = {"context_length": "16", "task.batch_size": "256"}
    outcomes = run_outcomes(
        mirror, "softmax,hedgehog:window=4", "wikitext2", "llama", recipe=recipe, stages=("distill", last), set=sizes
    )
    softmax, hybrid = (outcome.record for outcome in outcomes)
    assert list(hybrid.timings_s)[2:5] == ["swap", "distill", last]
    assert value_of(hybrid, "perplexity_without_linear_branch") > 0
    assert not any(metric.name.endswith("without_linear_branch") for metric in softmax.metrics)
    (cells,) = group_seeds([hybrid])
    effect = branch_effect(cells, kept_scores(lambda _: outcomes[1].rows))
    assert effect is not None
    assert effect.pairing == "paired over 6 documents"
    store = RunStore(mirror.parent / "kept")
    store.create()
    store.write_samples(hybrid.cell_id, outcomes[1].rows)
    again = {metric.name: metric for metric in rescore(hybrid, store).metrics}
    assert again == {metric.name: metric for metric in hybrid.metrics}
    assert hybrid.data is not None
    assert hybrid.data.details["tokenizer"] == f"hf:{mirror.parent / 'llama'}"


@pytest.mark.parametrize("left_out", [False, True])
def test_a_model_that_lora_cannot_train_is_refused_before_it_is_distilled(left_out: bool) -> None:
    conversion = cast(Any, MagicMock())
    conversion.cell.recipe, conversion.adapter.model = "pretrained-conversion-lora", swapped("vit", "softmax")
    conversion.is_left_out.return_value = left_out
    with nullcontext() if left_out else pytest.raises(UnsupportedError, match="not set up for model type 'vit'"):
        swap(conversion)
    assert conversion.adapter.swap_in.called == left_out


def test_a_converted_model_is_measured_again_as_it_was(mirror: Path) -> None:
    folder = mirror.parent / "converted"
    (made,) = run_cells(mirror, "hedgehog", save_to=str(folder))
    (again,) = run_cells(mirror, "hedgehog", backbone="converted", recipe="zero-shot", stages=())
    assert value_of(again, "accuracy") == value_of(made, "accuracy")
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["cell"]["recipe"] == "finetuned-conversion"
    assert provenance["base_revision"]


def test_recipes_that_do_not_go_with_a_backbone_are_refused(mirror: Path) -> None:
    with pytest.raises(UsageError, match="which is pretrained, 'scratch'"):
        run_cells(mirror, "softmax", recipe="scratch", stages=())
    config = make_config({"models": ("softmax",), "tasks": ("stdlib",), "recipe": "pretrained-conversion"})
    with pytest.raises(UsageError, match="trained from scratch, 'pretrained-conversion'"):
        make_plan(config)


def test_converting_wants_one_model_a_pretrained_base_and_an_empty_folder(tmp_path: Path, mirror: Path) -> None:
    console = Console(quiet=True)
    base = make_config({"models": ("hedgehog",), "tasks": ("stdlib",), "offline": True})
    with pytest.raises(UsageError, match="recipe scratch converts nothing"):
        convert(base, tmp_path / "new", console)
    with pytest.raises(UsageError, match="ask for 2 conversions"):
        convert(replace(base, models=("hedgehog", "elu")), tmp_path / "new", console)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError, match="holds something already"):
        convert(base, tmp_path / "full", console)

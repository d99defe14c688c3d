"""Fidelity from plan to record: which teacher each recipe has, and what a record says where there is none."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ...adapters.tiny_models import save_tiny
from .test_conversion import run_cells, value_of
from .test_scratch_conversion import run_cells as run_cells_from_scratch

FIDELITY = {"context_length": "16", "lengths": "16,32", "windows": "2", "sample_tokens": "0", "train_bytes": "6000"}


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """Some articles where WikiText-2 belongs, and a tiny Llama."""
    folder = tmp_path / "mirror" / "datasets" / "Salesforce" / "wikitext" / "wikitext-2-v1"
    folder.mkdir(parents=True)
    lines = ["", " = Foxes = \n", "", *(f" the {i}th quick brown fox jumps over {i} lazy dogs . \n" for i in range(90))]
    for split in ("train", "validation", "test"):
        pd.DataFrame({"text": lines}).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    save_tiny("llama", tmp_path / "llama")
    return tmp_path / "mirror"


@pytest.mark.parametrize("recipe", ["pretrained-conversion", "pretrained-conversion-lora", "finetuned-conversion"])
def test_the_teacher_is_the_softmax_model_before_conversion(mirror: Path, recipe: str) -> None:
    last = "lora" if recipe.endswith("lora") else "finetune"
    stages = ("teacher", "distill", last) if recipe == "finetuned-conversion" else ("distill", last)
    shared = {**FIDELITY, **{f"{stage}.lr": "0.05" for stage in stages}}
    (softmax, hedgehog), (tuned_softmax, tuned) = (
        run_cells(mirror, "softmax,hedgehog", "attention_fidelity", "llama", recipe=recipe, stages=stages, set=settings)
        for settings in ({**shared, f"{last}.steps": "0"}, shared)
    )
    assert value_of(softmax, "attention_kl_from_teacher") == 0
    assert value_of(hedgehog, "attention_kl_from_teacher") > 0
    entropies = [value_of(record, "attention_teacher_entropy") for record in (softmax, hedgehog, tuned)]
    assert entropies == [entropies[0]] * 3  # fine-tuning the student does not move it
    assert value_of(tuned, "attention_softmax_entropy") != value_of(hedgehog, "attention_softmax_entropy")
    assert value_of(tuned_softmax, "attention_kl") == 0
    is_teacher = recipe == "finetuned-conversion"
    assert (value_of(tuned_softmax, "attention_kl_from_teacher") == 0) == is_teacher
    assert not any("compared with a teacher" in note for record in (softmax, hedgehog, tuned) for note in record.notes)


def test_the_teacher_of_a_model_from_scratch_is_its_recipes_softmax_model(mirror: Path) -> None:
    steps = {f"{stage}.steps": "3" for stage in ("train", "distill")}
    shared = {**FIDELITY, **steps, "tokenizer": "byte", "train.batch_size": "4", "backbone.layers": "2"}
    tuning = {**shared, "finetune.steps": "3", "finetune.lr": "0.05"}
    root, task = mirror.parent, "attention_fidelity"
    softmax, hedgehog = run_cells_from_scratch(root, "softmax,hedgehog", task, mirror=str(mirror), set=shared)
    (tuned,) = run_cells_from_scratch(root, "hedgehog", task, mirror=str(mirror), set=tuning)
    assert value_of(softmax, "attention_kl_from_teacher") == value_of(softmax, "attention_kl") == 0
    assert value_of(hedgehog, "attention_kl_from_teacher") > 0
    entropies = [value_of(record, "attention_teacher_entropy") for record in (softmax, hedgehog, tuned)]
    assert entropies == [entropies[0]] * 3  # fine-tuning the student does not move it
    assert value_of(tuned, "attention_softmax_entropy") != value_of(hedgehog, "attention_softmax_entropy")
    assert "finetune: left out, as it was set to no steps" in hedgehog.notes
    assert not any("compared with a teacher" in note for record in (softmax, hedgehog, tuned) for note in record.notes)


def test_a_converted_checkpoint_has_no_teacher_and_its_record_says_so(mirror: Path) -> None:
    run_cells(
        *(mirror, "hedgehog", "attention_fidelity", "llama", str(mirror.parent / "converted")),
        recipe="pretrained-conversion",
        stages=("distill",),
        set={**FIDELITY, "finetune.steps": "0"},
    )
    (again,) = run_cells(
        mirror, "hedgehog", "attention_fidelity", "converted", recipe="zero-shot", stages=(), set=FIDELITY
    )
    assert any(
        note.startswith("not compared with a teacher: the checkpoint is a converted model") for note in again.notes
    )
    assert value_of(again, "attention_kl") > 0
    assert not any("teacher" in metric.name for metric in again.metrics)


def test_an_encoder_converts_on_sentences_and_has_a_teacher(mirror: Path) -> None:
    words = ["the good film has a fine cast and good acting", "a bad and dull day of a dire film", "bad"]
    for config in ("cola", "mrpc"):
        folder = mirror / "datasets" / "nyu-mll" / "glue" / config
        folder.mkdir(parents=True)
        text = [words[i % 3] for i in range(40)]
        table = {"sentence": text, "sentence1": text, "sentence2": text[::-1], "label": [i % 2 for i in range(40)]}
        for split in ("train", "validation"):
            pd.DataFrame(table).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    save_tiny("bert", mirror.parent / "bert")
    softmax, hedgehog = run_cells(
        mirror,
        "softmax,hedgehog",
        "attention_fidelity_cola",
        stages=("teacher", "distill"),
        set={"max_length": "16", "lengths": "16,32", "windows": "2", "texts": "3", "sample_tokens": "0"},
    )
    assert hedgehog.recipe == "finetuned-conversion"
    assert value_of(softmax, "attention_kl_from_teacher") == value_of(softmax, "attention_kl") == 0
    assert value_of(hedgehog, "attention_kl_from_teacher") > 0
    points = {(m.at["corpus"], m.at["seq_len"]) for m in hedgehog.metrics if m.name == "attention_kl_from_teacher_at"}
    assert points == {(corpus, length) for corpus in ("cola", "mrpc") for length in (16, 32)}

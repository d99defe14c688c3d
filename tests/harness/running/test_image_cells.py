"""Images from plan to record: a tiny ViT fine-tuned, swapped, distilled and scored, and models from scratch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForImageClassification

from hedgebench.adapters.pretrained.weight_files import read_config
from hedgebench.harness.config import make_config
from hedgebench.harness.plan import make_plan, make_sources
from hedgebench.harness.running.job import CellJob
from hedgebench.harness.running.worker import run_job
from hedgebench.results.record import Record

from ...adapters.tiny_models import save_tiny, tiny_config
from ...tasks.tiny_pictures import write_tiny
from .test_conversion import run_cells, value_of

PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 8, "width": 8},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
SHAPES = "images:dataset=tiny/shapes"
FIDELITY = "attention_fidelity_images:dataset=tiny/shapes"
LETTERS = tuple("abcdefghij")


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """Thirty pictures of three shapes, and a tiny ViT of ten classes with its image processor."""
    mirror = tmp_path / "mirror"
    write_tiny(mirror)
    save_tiny("vit", tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR), encoding="utf-8")
    return mirror


def run(mirror: Path, models: str, task: str = SHAPES, **more: Any) -> list[Record]:
    return run_cells(mirror, models, task, "vit", **more)


def test_a_pretrained_vit_is_fine_tuned_swapped_distilled_and_scored(mirror: Path) -> None:
    softmax, hedgehog, elu = run(mirror, "softmax,hedgehog,elu")
    assert (hedgehog.recipe, list(hedgehog.timings_s)[2:6]) == (
        "finetuned-conversion",
        ["teacher", "swap", "distill", "finetune"],
    )
    assert any("made earlier in this run" in note for note in hedgehog.notes)
    assert any("head is for the classes a, b" in note or "a new head for 3 classes" in note for note in softmax.notes)
    assert value_of(hedgehog, "attention_kl_distilled") < value_of(hedgehog, "attention_kl_swapped")
    assert value_of(elu, "attention_kl_swapped") > 0
    assert softmax.data is not None
    assert softmax.data.details["read_by"] == "processed"
    for record in (softmax, hedgehog, elu):
        assert 0 <= value_of(record, "accuracy") <= 1
        assert value_of(record, "majority_accuracy") == pytest.approx(1 / 3)


def test_a_converted_vit_comes_back_from_disk_with_its_image_processor(mirror: Path) -> None:
    folder = mirror.parent / "converted"
    (made,) = run(mirror, "cosformer", save_to=str(folder), recipe="pretrained-conversion", stages=("finetune",))
    assert (folder / "preprocessor_config.json").is_file()
    assert read_config(folder)["hedgebench"] == {"model": "cosformer", "context_length": 5}
    (again,) = run_cells(mirror, "cosformer", SHAPES, "converted", recipe="zero-shot", stages=())
    assert value_of(again, "accuracy") == value_of(made, "accuracy")


def test_the_outputs_of_a_checkpoint_are_taken_by_the_names_of_the_classes(mirror: Path) -> None:
    named = []
    for repo, names in (("tiny/letters", LETTERS), ("tiny/turned", LETTERS[::-1])):
        write_tiny(mirror, repo, names=names)
        config = make_config(
            {
                "models": ("softmax",),
                "tasks": (f"images:dataset={repo}:train_rows=0",),
                "backbone": f"hf:{mirror.parent / 'vit'}",
                "mirror": str(mirror),
                "offline": True,
                "recipe": "zero-shot",
            }
        )
        (planned,) = make_plan(config)
        done = run_job(CellJob(planned, config, mirror.parent, make_sources(config), threads=1), lambda _: None)
        assert done.record.data is not None
        assert done.record.data.splits == {"test": 9}
        assert any("matched by name: " in note for note in done.record.notes)
        named.append([names[row["prediction"]] for row in done.rows])
    assert named[0] == named[1]


def test_models_from_scratch_learn_the_shapes(mirror: Path) -> None:
    learnt = {"train.steps": "60", "train.lr": "0.003", "backbone.width": "16", "backbone.heads": "2"}
    sizes = {**learnt, "backbone.kv_heads": "2", "backbone.mlp_width": "32", "backbone.layers": "1"}
    records = run_cells(mirror, "softmax@vit,hedgehog@vit,elu@vit", SHAPES, stages=(), recipe="scratch", set=sizes)
    for record in records:
        assert value_of(record, "accuracy") == 1.0, record.model


def test_attention_on_pictures_is_held_against_softmax_and_the_teacher(mirror: Path) -> None:
    config = tiny_config("vit")
    config.patch_size = 2
    auto: Any = AutoModelForImageClassification
    auto.from_config(config).save_pretrained(mirror.parent / "vit")
    few = {"windows": "2", "pictures": "3"}
    softmax, hedgehog = run(mirror, "softmax,hedgehog", FIDELITY, stages=("teacher", "distill"), set=few)
    assert value_of(softmax, "attention_kl") == value_of(softmax, "attention_kl_from_teacher") == 0
    assert value_of(softmax, "attention_monotonicity") == pytest.approx(1, abs=1e-4)
    assert value_of(hedgehog, "attention_kl") > 0
    assert value_of(hedgehog, "attention_kl_from_teacher") > 0
    points = [(m.at["corpus"], m.at["seq_len"], m.n) for m in hedgehog.metrics if m.name == "attention_kl_at"]
    assert points == [("tiny/shapes", 17, 2)]


def test_a_picture_of_few_patches_has_no_measures(mirror: Path) -> None:
    config = make_config(
        {
            "models": ("softmax",),
            "tasks": (FIDELITY,),
            "mirror": str(mirror),
            "offline": True,
            "set": {"train.steps": "1", "backbone.patch_size": "4", "backbone.layers": "1"},
        }
    )
    (planned,) = make_plan(config)
    done = run_job(CellJob(planned, config, mirror.parent, make_sources(config), threads=1), lambda _: None)
    assert done.record.status == "unsupported"
    assert done.record.error is not None
    assert "5 positions in a picture; measures need 8" in done.record.error.message

"""Classes as words for a mask: rows with a prompt, class logits at the mask, and the pooled head left as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from hedgebench.harness.config import make_config
from hedgebench.harness.plan import make_plan, make_sources
from hedgebench.harness.running.job import CellJob
from hedgebench.harness.running.worker import run_job
from hedgebench.results.names import UsageError
from hedgebench.results.record import Record
from hedgebench.tasks.base import BackboneTokenizer, Sources
from hedgebench.tasks.classification import glue, label_words
from hedgebench.tasks.classification.label_words import with_prompt
from hedgebench.tasks.own_data import Decided

from ...adapters.tiny_models import WORD_PIECES, save_tiny

PIECES = {piece: i for i, piece in enumerate(WORD_PIECES)}
MLM = {"head": "mlm", "words": "cat+dog", "prompt": "the [MASK] sat"}


@pytest.fixture
def here(tmp_path: Path) -> Sources:
    """SST-2 of 40 rows in the mirror, and a tiny BERT with a head for masked words."""
    folder = tmp_path / "mirror" / "datasets" / "nyu-mll" / "glue" / "sst2"
    folder.mkdir(parents=True)
    for split, rows in (("train", 40), ("validation", 8)):
        table = {
            "sentence": [("the cat ran" if i % 2 else "a dog") for i in range(rows)],
            "label": [i % 2 for i in range(rows)],
        }
        pandas.DataFrame({**table, "idx": range(rows)}).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    save_tiny("bert", tmp_path / "bert")
    tokenizer = BackboneTokenizer("tiny", "f00d", tmp_path / "bert")
    return Sources(tmp_path / "mirror", tmp_path / "cache", offline=True, tokenizer=tokenizer)


def settings(**changes: Any) -> dict[str, Any]:
    own = label_words.SST2.info.scales["smoke"].settings
    return {**own, "tokenizer": "backbone", "max_length": 16, **changes}


def spelled(row: Any) -> str:
    return " ".join(WORD_PIECES[i] for i in row)


def test_a_prompt_follows_a_text_and_stands_between_two() -> None:
    cls, sep, prompt = PIECES["[CLS]"], PIECES["[SEP]"], np.array([7, 8], np.int32)
    assert with_prompt(np.array([cls, 5, sep]), prompt, sep).tolist() == [cls, 5, 7, 8, sep]
    assert with_prompt(np.array([cls, 5, sep, 6, sep]), prompt, sep).tolist() == [cls, 5, sep, 7, 8, 6, sep]


def test_rows_have_the_prompt_and_both_heads_keep_tokens_of_their_own(here: Sources) -> None:
    task = label_words.SST2
    words, pooled = (task.load(settings(**head), here) for head in (MLM, {}))
    assert spelled(words.test[0].tokens[0]) == "[CLS] a dog the [MASK] sat [SEP]"
    assert spelled(pooled.test[0].tokens[0]) == "[CLS] a dog [SEP]"
    assert spelled(task.load(settings(**MLM), here).test[0].tokens[1]) == "[CLS] the cat ran the [MASK] sat [SEP]"
    assert words.shape.label_words == (PIECES["cat"], PIECES["dog"])
    assert words.shape.mask_token == PIECES["[MASK]"]
    assert pooled.shape.label_words == ()
    long = settings(**MLM, max_length=8) | {"max_length": 8}
    assert spelled(task.load(long, here).test[0].tokens[1]) == "[CLS] the cat ran the [MASK] sat [SEP]"


def test_the_pooled_head_is_the_task_that_it_was() -> None:
    assert isinstance(label_words.SST2, Decided)
    assert label_words.SST2.decided(settings(), None) is glue.SST2
    assert label_words.SST2.decided(settings(head="mlm"), None) is label_words.SST2


@pytest.mark.parametrize(
    ("task", "given", "told"),
    [
        (label_words.SST2, {"head": "masked"}, "unknown head 'masked'"),
        (label_words.SST2, {"words": "cat+dog"}, "words is 'cat\\+dog', which only head=mlm reads"),
        (label_words.SST2, {"head": "mlm", "words": "cat+dog+mat"}, "sst2 has 2 classes"),
        (label_words.SST2, {"head": "mlm", "words": "cat+cat"}, "another word for each class"),
        (label_words.SST2, {"head": "mlm", "prompt": "so"}, "a text with one \\[MASK\\]"),
        (label_words.STSB, {"head": "mlm"}, "is a regression"),
    ],
)
def test_heads_that_cannot_be_are_refused(task: Any, given: dict[str, Any], told: str, here: Sources) -> None:
    with pytest.raises(ValueError, match=told):
        task.identify(settings(**given), here)


def test_a_word_of_several_tokens_is_refused(here: Sources) -> None:
    with pytest.raises(ValueError, match="words has 'catdog', for which the tokenizer of tiny has no single token"):
        label_words.SST2.load(settings(**{**MLM, "words": "cat+catdog"}), here)


def run(here: Sources, task: str, *models: str, **values: Any) -> list[Record]:
    assert here.mirror is not None
    folder = here.mirror.parent
    config = make_config({
        "models": models,
        "tasks": (task,),
        "backbone": f"hf:{folder / 'bert'}",
        "mirror": str(here.mirror),
        "offline": True,
        **values,
    })  # fmt: skip
    records = []
    for planned in make_plan(config):
        assert planned.problem is None, planned.problem
        records.append(
            run_job(CellJob(planned, config, folder, make_sources(config), threads=1), lambda _: None).record
        )
    return records


def test_a_masked_model_classifies_as_it_is_and_after_conversion(here: Sources) -> None:
    task = "glue/sst2:head=mlm:words=cat+dog"
    (softmax,) = run(here, task, "softmax", recipe="zero-shot")
    assert softmax.status == "ok", softmax.error
    assert softmax.settings["task.head"] == "mlm"
    assert "by the checkpoint's own head" in softmax.notes[0]
    quick = {f"{stage}.{key}": value for stage in ("teacher", "distill", "finetune")
             for key, value in {"steps": "2", "epochs": "0", "batch_size": "4", "eval_rows": "4"}.items()}  # fmt: skip
    (hedgehog,) = run(here, task, "hedgehog", recipe="finetuned-conversion", set=quick)
    assert hedgehog.status == "ok", hedgehog.error
    assert "path_difference" in {metric.name for metric in hedgehog.metrics}


def test_a_model_from_scratch_has_no_masked_head(here: Sources) -> None:
    config = make_config({"models": ("softmax",), "tasks": ("glue/sst2:head=mlm",), "mirror": str(here.mirror)})
    (planned,) = make_plan(config)
    assert planned.problem is not None
    assert "takes a pretrained masked language model" in planned.problem.message
    with pytest.raises(UsageError, match="unknown head"):
        make_plan(make_config({"models": ("softmax",), "tasks": ("glue/sst2:head=maks",)}))

"""Cells that read text, from files to the record: the rows are the fingerprint's, the first token is always told."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hedgebench.harness.config import make_config
from hedgebench.harness.plan import make_plan, make_sources
from hedgebench.harness.running.job import CellJob
from hedgebench.harness.running.worker import run_job
from hedgebench.results.record import Record

from ...adapters.tiny_models import END_OF_TEXT, save_tiny
from ...tasks.lm_eval_tiny import peer, requests, write_data, write_task

SETTINGS = {"context_length": 32, "train_bytes": 0, "batch_size": 2}
BEGIN = "!"
TEXT = " = cats = \n cats sit on mats \n"
ROLLING = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "doc_to_choice": None,
    "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
}


def write_articles(mirror: Path, texts: Sequence[str]) -> Path:
    """The test split of WikiText-2, an article for each text, always with the same time of modification."""
    folder = mirror / "datasets" / "Salesforce" / "wikitext" / "wikitext-2-v1"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for text in texts for row in ("", f" = {text.split()[0]} = \n", "", f" {text} \n")]
    file = folder / "test-00000-of-00001.parquet"
    pd.DataFrame({"text": rows}).to_parquet(file)
    os.utime(file, ns=(10**18, 10**18))
    return file


def planned(root: Path, **changes: Any) -> CellJob:
    """One cell on the checkpoint in `root/llama` and the data in `root/mirror`, as a run plans it."""
    config = make_config(
        {
            "models": ("softmax",),
            "tasks": ("wikitext2",),
            "backbone": f"hf:{root / 'llama'}",
            "recipe": "zero-shot",
            "mirror": str(root / "mirror"),
            "offline": True,
            "set": {key: str(value) for key, value in SETTINGS.items()},
            **changes,
        }
    )
    sources = make_sources(config)
    (cell,) = make_plan(config)
    return CellJob(cell, config, root / "out", sources, threads=1)


def measured(job: CellJob) -> Record:
    """The record of a cell, measured in this process."""
    return run_job(job, lambda message: None).record


def metric(record: Record, name: str) -> float:
    """A number of a record."""
    assert record.status == "ok", record.error
    (value,) = [metric.value for metric in record.metrics if metric.name == name]
    assert value is not None
    return value


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a tiny Llama and a test split of two articles."""
    save_tiny("llama", tmp_path / "llama")
    write_articles(tmp_path / "mirror", ["cats sit on mats", "dogs ran far"])
    return tmp_path


def test_another_file_of_the_same_path_and_time_gives_its_own_rows(root: Path) -> None:
    first = planned(root)
    assert metric(measured(first), "tokens") == len(" = cats = \n cats sit on mats \n = dogs = \n dogs ran far \n")
    write_articles(root / "mirror", ["cats sit on mats", "dogs ran farther"])
    second = planned(root)
    assert second.cell.key != first.cell.key
    assert metric(measured(second), "tokens") == len(" = cats = \n cats sit on mats \n = dogs = \n dogs ran farther \n")


def test_data_that_change_after_the_plan_are_an_error(root: Path) -> None:
    job = planned(root)
    write_articles(root / "mirror", ["cats sit on mats"])
    record = measured(job)
    assert record.status == "error"
    assert record.error is not None
    assert "changed while the run went on" in record.error.message


def write_tokenizer(checkpoint: Path, template: str) -> None:
    """Names `!` as BOS and `<|endoftext|>` as EOS, and has the tokenizer put them around texts."""
    from tokenizers import Tokenizer, processors

    file = checkpoint / "tokenizer.json"
    tokenizer: Any = Tokenizer.from_file(str(file))
    special = [(token, tokenizer.token_to_id(token)) for token in (BEGIN, END_OF_TEXT)]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    tokenizer.save(str(file))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BEGIN, "eos_token": END_OF_TEXT}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(names))


def transformers_bits_per_byte(checkpoint: Path) -> float:
    """Bits per byte of `TEXT` after one BOS, by transformers alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint)
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer.encode(TEXT, add_special_tokens=False)]])
    with torch.no_grad():
        log_probs = model(ids[:, :-1]).logits.double().log_softmax(-1)
    return -float(log_probs.gather(2, ids[:, 1:, None]).sum()) / len(TEXT.encode()) / math.log(2)


@pytest.mark.parametrize("template", ["$A", f"{BEGIN} $A", f"{BEGIN} $A {END_OF_TEXT}"])
def test_a_text_begins_with_one_prefix_token_whatever_the_tokenizer_adds(template: str, root: Path) -> None:
    write_articles(root / "mirror", ["cats sit on mats"])
    write_tokenizer(root / "llama", template)
    record = measured(planned(root))
    assert metric(record, "bits_per_byte") == pytest.approx(transformers_bits_per_byte(root / "llama"), rel=1e-5)
    assert record.data is not None
    assert record.data.details["prefix_token"] == BEGIN
    assert record.data.details["tokenizer_source"] == "folder"
    noted = [note for note in record.notes if "the tokenizer puts" in note]
    assert [note.partition(";")[0] for note in noted] == [
        *(["the tokenizer puts ! before a text"] if template != "$A" else []),
        *(["the tokenizer puts <|endoftext|> after a text"] if END_OF_TEXT in template else []),
    ]


@pytest.mark.parametrize("template", ["$A", f"{BEGIN} $A", f"{BEGIN} $A {END_OF_TEXT}"])
def test_lm_eval_equals_its_own_model_and_says_where_that_scores_more_than_the_text(template: str, root: Path) -> None:
    write_tokenizer(root / "llama", template)
    write_data(root / "mirror", "tiny/words", "plain", "test", {"text": [TEXT]})
    task = write_task(root, "rolling", **ROLLING)
    record = measured(planned(root, tasks=(f"lm_eval/{task}",), set={"max_length": "64"}))
    theirs = peer(root / "llama").loglikelihood_rolling(requests("loglikelihood_rolling", (TEXT,)))[0]
    value = metric(record, "bits_per_byte")
    assert value == pytest.approx(-theirs / len(TEXT.encode()) / math.log(2), rel=1e-5)
    alone = transformers_bits_per_byte(root / "llama")
    assert (value == pytest.approx(alone, rel=1e-5)) == (template == "$A")
    assert record.data is not None
    assert record.data.details["prefix_token"] == BEGIN
    assert len([note for note in record.notes if "lm-eval's hf model, which this task equals" in note]) == (
        len(template.split()) - 1
    )

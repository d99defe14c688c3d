"""Tests of tasks/lm_eval/rolling.py: rolling tasks have measures by token beside lm-eval's."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from hedgebench.harness.registry import tasks
from hedgebench.tasks.base import BackboneTokenizer, Sources
from hedgebench.tasks.lm_eval.rolling import LM_EVAL_WITH_ROLLING, RollingTask
from hedgebench.tasks.lm_eval.task import LM_EVAL, LmEvalTask

from ..lm_eval_tiny import adapter_of, save_checkpoint, text_model_of, write_data, write_task, write_words

ROLLING = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "text",
    "metric_list": None,
    "doc_to_choice": None,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint("gpt2", tmp_path_factory.mktemp("gpt2") / "model")


@pytest.fixture
def here(sources: Sources, checkpoint: Path) -> Sources:
    assert sources.mirror is not None
    write_words(sources.mirror)
    return replace(sources, tokenizer=BackboneTokenizer("tiny", "x", checkpoint))


def test_a_rolling_task_has_lm_evals_measures_and_those_by_token(
    here: Sources, checkpoint: Path, tmp_path: Path
) -> None:
    name = f"lm_eval/{write_task(tmp_path / 'tasks', 'rolling', **ROLLING)}"
    task, plain = LM_EVAL_WITH_ROLLING.get(name), LM_EVAL.get(name)
    assert isinstance(task, RollingTask)
    settings = {**task.info.scales["smoke"].settings, "batch_size": 3}
    rows = json.loads(json.dumps(task.predict(adapter_of(checkpoint), task.load(settings, here), settings)))
    metrics = {metric.name: metric for metric in task.score(rows, settings)}
    without = [{key: value for key, value in row.items() if key != "tokens"} for row in rows]
    theirs = {metric.name: metric for metric in plain.score(without, settings)}
    assert list(metrics) == [*theirs, "perplexity", "tokens"]
    assert {name: metrics[name] for name in theirs} == theirs
    encode = text_model_of(checkpoint).encode
    tokens = sum(len(encode(text)) for row in rows for (text,) in row["input"])
    assert metrics["tokens"].value == tokens
    # Each byte is a token of the tiny checkpoint, so the perplexity of tokens is that of bytes.
    assert metrics["perplexity"].value == pytest.approx(metrics["byte_perplexity"].value)
    assert metrics["perplexity"].value == pytest.approx(math.exp(math.log(2) * (metrics["bits_per_byte"].value or 0)))
    assert metrics["perplexity"].stderr == pytest.approx(metrics["byte_perplexity"].stderr)


def test_a_document_without_text_adds_nothing_and_the_others_keep_their_measures(
    here: Sources, checkpoint: Path, tmp_path: Path
) -> None:
    texts = ["one two", "three", "no"]
    assert here.mirror is not None
    found = []
    for repo, rows in (("whole", texts), ("gaps", ["", *texts])):
        write_data(here.mirror, f"tiny/{repo}", "plain", "test", {"text": rows})
        name = write_task(tmp_path, repo, **ROLLING, dataset_path=f"tiny/{repo}", training_split=None)
        task = LM_EVAL_WITH_ROLLING.get(f"lm_eval/{name}")
        settings = task.info.scales["smoke"].settings
        predicted = task.predict(adapter_of(checkpoint), task.load(settings, here), settings)
        found.append({metric.name: metric for metric in task.score(predicted, settings)})
    for measure in ("byte_perplexity", "bits_per_byte", "perplexity", "tokens"):
        whole, gaps = (each[measure] for each in found)
        assert gaps.value == pytest.approx(whole.value)
        assert gaps.stderr == pytest.approx(whole.stderr)
    assert found[1]["perplexity"].n == len(texts)


def test_other_tasks_are_as_they_were_and_the_registry_has_the_family(tmp_path: Path) -> None:
    task = LM_EVAL_WITH_ROLLING.get(f"lm_eval/{write_task(tmp_path, 'choice')}")
    assert type(task) is LmEvalTask
    assert tasks().families == {"lm_eval/": LM_EVAL_WITH_ROLLING}

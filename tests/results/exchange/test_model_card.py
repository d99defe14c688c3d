"""The card of a converted model says what was measured and where the model comes from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from hedgebench.results.exchange.model_card import write_model_card
from hedgebench.results.record import DataIdentity, Metric, Record

RECORD = Record(
    schema_version=1, run_id="run", cell_id="c", model="hedgehog:window=64", backbone="smollm2-135m", task="wikitext2",
    recipe="pretrained-conversion", scale="small", seed=3, status="ok", main_metric="perplexity",
    metrics=(
        Metric("parameters", 1234.0, "1", None, None, 1),
        Metric("perplexity", 21.5, "1", False, 0.25, 60),
        Metric("prefill_ms", 5.0, "ms", False, None, 3, {"seq_len": 64}),
    ),
    settings={}, timings_s={}, kernels=(),
    data=DataIdentity("Salesforce/wikitext", "abc", "f00d", "hub", {"train": 600, "test": 60}),
    environment={"device": "cpu", "dtype": "float32", "hedgebench": "0.1.0", "git_commit": "c0ffee"},
    notes=("stopped early | at step 9",),
)  # fmt: skip
BASE = {"backbone": "smollm2-135m", "source": "hub", "repo": "HuggingFaceTB/SmolLM2-135M"}


def card(folder: Path, record: Record = RECORD, base: dict[str, str] = BASE) -> Any:
    (folder / "provenance.json").write_text(json.dumps({"base": base, "base_revision": "beef"}))
    write_model_card(record, folder, "org/my-hedgehog", "text-generation")
    return ModelCard.load(folder / "README.md")


def test_the_head_is_what_the_hub_reads(tmp_path: Path) -> None:
    data = card(tmp_path).data
    assert (data.base_model, data.pipeline_tag) == (BASE["repo"], "text-generation")
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_revision) == ("perplexity", 21.5, "abc")
    assert "hedgehog" in data.tags


def test_the_body_has_numbers_with_errors_and_the_origin(tmp_path: Path) -> None:
    text = card(tmp_path).text
    assert "| perplexity ↓ | 21.50 | 0.25 | 60 |" in text
    assert "prefill_ms" not in text
    assert text.index("perplexity ↓") < text.index("parameters")
    assert "| data | Salesforce/wikitext abc: 600 train, 60 test |" in text
    assert "| git_commit | c0ffee |" in text
    assert r"stopped early \| at step 9" in text
    assert 'AutoModelForCausalLM.from_pretrained("org/my-hedgehog")' in text
    assert "Partial" not in text


def test_partial_numbers_and_a_base_without_a_repository_say_so(tmp_path: Path) -> None:
    made = card(tmp_path, replace(RECORD, limit=5, backbone="hf:/home/me/base"), {**BASE, "repo": ""})
    assert "Partial: the first 5 test items alone." in made.text
    assert made.data.base_model is None
    assert "first 5 rows" in made.data.eval_results[0].metric_name
    assert "/home/me" not in made.content
    assert "`base` with its softmax attention replaced" in made.text


@pytest.mark.parametrize("value", [None, float("inf")])
def test_a_number_that_is_none_is_no_result(value: float | None, tmp_path: Path) -> None:
    metrics = (replace(RECORD.metrics[1], value=value),)
    assert not card(tmp_path, replace(RECORD, metrics=metrics)).data.eval_results

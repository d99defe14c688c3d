"""A file that lm-eval 0.4.13 wrote (its dummy model on two tasks and a group) becomes records."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from hedgebench.results.exchange.lm_eval_import import is_lm_eval, lm_eval_records
from hedgebench.results.foreign import ForeignJsonError
from hedgebench.results.record import DataIdentity, Metric, Record, from_json, to_json

FILE = Path(__file__).parents[1] / "data" / "lm_eval-0.4.13.json"


@pytest.fixture
def results() -> dict[str, Any]:
    return dict(json.loads(FILE.read_text(encoding="utf-8")))


def records_of(results: dict[str, Any]) -> dict[str, Record]:
    return {record.task: record for record in lm_eval_records(results, "imported", FILE.name)}


def test_each_task_is_a_record_and_a_group_is_none(results: dict[str, Any]) -> None:
    records = records_of(results)
    assert set(records) == {"lm_eval/tiny_choice", "lm_eval/tiny_text"}
    choice = records["lm_eval/tiny_choice"]
    values = results["results"]["tiny_choice"]
    assert choice.metrics == (
        Metric("acc", values["acc,none"], "1", True, values["acc_stderr,none"], 10),
        Metric("acc_norm", values["acc_norm,none"], "1", True, values["acc_norm_stderr,none"], 10),
    )
    assert choice.main_metric == "acc"
    assert (choice.model, choice.backbone, choice.recipe, choice.scale) == (
        "example/tiny-model",
        "dummy",
        "lm-eval",
        "imported",
    )
    assert (choice.limit, choice.seed, choice.status) == (10, 0, "ok")
    assert choice.data == DataIdentity(
        "json",
        "",
        results["task_hashes"]["tiny_choice"],
        "imported",
        {"test": 12},
        {
            **{"task_version": 2.0, "num_fewshot": 0, "label_mapping": "none"},
            **dict.fromkeys(("tokenizer_source", "prefix_token"), "not stated"),
            **dict.fromkeys(("paired_by", "paired_digest"), "none"),
        },
    )
    ours = {**results, "config": {**results["config"], "tokenizer_source": "hub", "prefix_token": "<s>"}}
    stated = records_of(ours)["lm_eval/tiny_choice"].data
    assert stated is not None
    assert (stated.details["tokenizer_source"], stated.details["prefix_token"]) == ("hub", "<s>")
    assert choice.environment["lm-eval"] == "0.4.13"
    assert choice.settings["lm_eval.fewshot_seed"] == 1234
    assert choice.notes == (
        "imported from lm_eval-0.4.13.json: measured by lm-eval, kernels and data are as its file says",
    )


def test_what_lm_eval_has_no_error_of_has_none(results: dict[str, Any]) -> None:
    words, bits = records_of(results)["lm_eval/tiny_text"].metrics
    assert (words.name, words.unit, words.higher_is_better, words.stderr) == ("word_perplexity", "1", False, None)
    assert (bits.name, bits.unit, bits.stderr) == ("bits_per_byte", "bits/byte", None)


def test_the_records_are_records(results: dict[str, Any]) -> None:
    for record in records_of(results).values():
        assert from_json(json.loads(json.dumps(to_json(record)))) == record


def test_the_same_file_gives_the_same_cells_and_another_result_others(results: dict[str, Any]) -> None:
    other = copy.deepcopy(results)
    other["results"]["tiny_choice"]["acc,none"] = 0.7
    ids = [{record.cell_id for record in records_of(each).values()} for each in (results, results, other)]
    assert ids[0] == ids[1]
    assert len(ids[0] - ids[2]) == 1


def test_models_of_one_protocol_are_peers_and_other_shots_are_not(results: dict[str, Any]) -> None:
    model, shots = copy.deepcopy(results), copy.deepcopy(results)
    model["model_name"] = "another"
    shots["n-shot"]["tiny_choice"] = 5
    keys = [records_of(each)["lm_eval/tiny_choice"].peer_key for each in (results, model, shots)]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("as_text", [True, False])
def test_models_whose_arguments_lm_eval_keeps_in_the_metadata_are_peers(results: dict[str, Any], as_text: bool) -> None:
    """From 0.4.9 on each task's metadata holds the model's arguments, and the path of the task's file."""
    files = []
    for name, length in (("one", 128), ("other", 128), ("other", 256)):
        own = {"pretrained": name, "dtype": "float32"}
        file = copy.deepcopy(results)
        file["config"]["model_args"] = ",".join(map("=".join, own.items())) if as_text else own
        file["configs"]["tiny_choice"]["metadata"] |= {**own, "config_source": f"/{name}.yaml", "max_length": length}
        files.append(file)
    keys = [records_of(each)["lm_eval/tiny_choice"].peer_key for each in files]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    ("given", "limit"), [({"limit": 10.0}, 10), ({"limit": 0.8}, 10), ({"limit": None, "samples": {}}, 10)]
)
def test_a_part_of_the_rows_is_a_limit_however_it_was_asked_for(
    results: dict[str, Any], given: dict[str, Any], limit: int
) -> None:
    # lm-eval's --limit is a float: a count, or a share of the rows; --samples picks rows.
    other = {**results, "config": {**results["config"], **given}}
    assert {record.limit for record in records_of(other).values()} == {limit}
    whole = {task: {"original": 12, "effective": 12} for task in results["n-samples"]}
    assert {r.limit for r in records_of({**other, "config": {"limit": None}, "n-samples": whole}).values()} == {None}


def test_a_filter_is_part_of_the_metrics_name(results: dict[str, Any]) -> None:
    results["results"]["tiny_choice"] = {"alias": "x", "exact_match,strict": 0.5, "exact_match_stderr,strict": 0.1}
    (metric,) = records_of(results)["lm_eval/tiny_choice"].metrics
    assert (metric.name, metric.value, metric.stderr, metric.n) == ("exact_match.strict", 0.5, 0.1, 10)


def test_a_file_without_results_or_with_a_value_that_is_none_is_refused(results: dict[str, Any]) -> None:
    with pytest.raises(ForeignJsonError, match="no results of a task"):
        records_of({**results, "results": {}})
    with pytest.raises(ForeignJsonError, match="acc,none of task tiny_choice is 'high'; expected a number"):
        records_of({**results, "results": {"tiny_choice": {"acc,none": "high"}}})


def test_other_json_is_not_taken_for_lm_evals() -> None:
    assert not is_lm_eval([])
    assert not is_lm_eval({"results": [], "configs": {}, "config": {}})
    assert not is_lm_eval({"schema_version": 1})

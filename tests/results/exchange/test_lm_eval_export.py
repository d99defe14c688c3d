"""Results files that lm-eval's own functions read as theirs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hedgebench.results.exchange.export import export
from hedgebench.results.exchange.lm_eval_export import lm_eval_results
from hedgebench.results.exchange.lm_eval_import import is_lm_eval, lm_eval_records
from hedgebench.results.record import DataIdentity, Metric, Record

MakeRecord = Callable[..., Record]
KEPT = json.loads((Path(__file__).parents[1] / "data" / "lm_eval-0.4.13.json").read_text(encoding="utf-8"))


@pytest.fixture
def records(make_record: MakeRecord) -> list[Record]:
    """Two seeds of a task of ours with all sorts of metrics, one task of lm-eval's with a filter, another model."""
    metrics = tuple(Metric("accuracy", value, "1", True, 0.01, 872) for value in (0.9, 0.92))
    others = (
        Metric("matthews", 0.5, "1", True, None, 872),
        Metric("bits_per_byte", 1.5, "bits/byte", False, 0.1, 872),
        Metric("chance", 0.5, "1", None, None, 872),
        Metric("decode_ms", 3.0, "ms", False, 0.1, 9),
        Metric("accuracy", 0.8, "1", True, 0.01, 872, {"seq_len": 8}),
        Metric("f1", float("nan"), "1", True, None, 872),
    )
    own = DataIdentity("gsm8k/main", "1", "f00d", "hub", {"test": 1319}, {"task_version": 3.0, "num_fewshot": 5})
    filtered = (
        Metric("exact_match.strict-match", 0.25, "1", True, 0.02, 100),
        Metric("exact_match.flexible-extract", 0.5, "1", True, 0.02, 100),
    )
    return [
        *(make_record("elu", "glue/sst2", seed=i, metrics=(m, *others)) for i, m in enumerate(metrics)),
        make_record("elu", "lm_eval/gsm8k", metrics=filtered, data=own, limit=100),
        make_record("elu", "throughput", metrics=(Metric("prefill_ms", 1.0, "ms", False, None, 3),)),
        make_record("hedgehog:map=softmax", "glue/sst2", metrics=metrics[:1]),
    ]


def test_values_stand_under_lm_evals_keys(records: list[Record]) -> None:
    found = lm_eval_results(records)
    assert set(found) == {
        "elu@gpt-scratch-smoke",
        "elu@gpt-scratch-smoke-limit100",
        "hedgehog:map=softmax@gpt-scratch-smoke",
    }
    ours = found["elu@gpt-scratch-smoke"]
    assert ours["results"] == {
        "glue/sst2": {
            "name": "glue/sst2",
            "alias": "glue/sst2",
            "sample_len": 872,
            "acc,none": pytest.approx(0.91),
            "acc_stderr,none": pytest.approx(0.01),
            "mcc,none": 0.5,
            "mcc_stderr,none": pytest.approx(0.0),
            "bits_per_byte,none": 1.5,
            "bits_per_byte_stderr,none": pytest.approx(0.0),
        }
    }
    assert ours["higher_is_better"]["glue/sst2"] == {"acc": True, "mcc": True, "bits_per_byte": False}
    assert ours["config"]["seeds"] == [0, 1]


def test_a_task_of_lm_evals_has_its_own_name_filters_shots_and_version(records: list[Record]) -> None:
    found = lm_eval_results(records)["elu@gpt-scratch-smoke-limit100"]
    assert found["results"]["gsm8k"]["exact_match,strict-match"] == 0.25
    assert found["results"]["gsm8k"]["exact_match_stderr,flexible-extract"] == 0.02
    assert (found["n-shot"], found["versions"]) == ({"gsm8k": 5}, {"gsm8k": 3.0})
    assert found["n-samples"] == {"gsm8k": {"original": 1319, "effective": 100}}
    assert found["higher_is_better"] == {"gsm8k": {"exact_match": True}}
    assert found["config"]["limit"] == 100
    assert found["configs"]["gsm8k"]["dataset_path"] == "gsm8k/main"


def test_a_standard_error_that_is_not_known_is_lm_evals_not_available(make_record: MakeRecord) -> None:
    metric = Metric("accuracy", 0.5, "1", True, None, 4)
    (found,) = lm_eval_results([make_record(metrics=(metric,))]).values()
    assert found["results"]["wikitext2"]["acc_stderr,none"] == "N/A"


def test_the_keys_are_those_of_a_file_of_lm_evals_own(records: list[Record]) -> None:
    ours = lm_eval_results(records)["elu@gpt-scratch-smoke"]
    assert set(ours) - set(KEPT) == set()
    for key in ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples"):
        assert set(ours[key]) == {"glue/sst2"}, key
    assert set(ours["results"]["glue/sst2"]) >= {"name", "alias", "sample_len"}
    assert set(ours["n-samples"]["glue/sst2"]) == set(KEPT["n-samples"]["tiny_choice"])


def test_lm_evals_own_table_shows_every_value(records: list[Record]) -> None:
    from lm_eval.utils import make_table

    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for found in lm_eval_results(records).values()
        for line in make_table(found).splitlines()[2:]
        if line
    ]
    shown = [(*line[2:6], float(line[6])) for line in lines]
    assert shown == [
        ("none", "0", "acc", "↑", 0.91),
        ("none", "0", "bits_per_byte", "↓", 1.5),
        ("none", "0", "mcc", "↑", 0.5),
        ("flexible-extract", "5", "exact_match", "↑", 0.5),
        ("strict-match", "5", "exact_match", "↑", 0.25),
        ("none", "0", "acc", "↑", 0.9),
    ]
    assert [float(line[-1]) for line in lines] == [0.01, 0.0, 0.0, 0.02, 0.02, 0.01]


def test_files_stand_where_lm_eval_puts_them(records: list[Record], tmp_path: Path) -> None:
    from lm_eval.utils import get_results_filenames, sanitize_model_name

    export(records, "lm-eval", tmp_path)
    for name in lm_eval_results(records):
        (file,) = (tmp_path / sanitize_model_name(name)).iterdir()
        assert get_results_filenames([str(file)]) == [str(file)]
        assert json.loads(file.read_text())["model_name"] == name


def test_what_is_exported_is_imported_with_the_same_numbers(records: list[Record]) -> None:
    found = json.loads(json.dumps(lm_eval_results(records)["elu@gpt-scratch-smoke-limit100"]))
    assert is_lm_eval(found)
    (back,) = lm_eval_records(found, "run", "file.json")
    (first,) = [record for record in records if record.task == "lm_eval/gsm8k"]
    assert (back.task, back.metrics, back.limit) == (first.task, first.metrics, first.limit)

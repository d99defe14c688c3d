"""Metrics of the package `evaluate`: a script written here, the hub's where it can be reached, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from hedgebench.tasks.base import DataUnavailableError
from hedgebench.tasks.evaluate_metrics import EvaluateName, load_evaluate, measure_evaluate, parse_evaluate
from hedgebench.tasks.text_metrics import measure

GLUE = {
    "cola": {"matthews": "matthews_correlation"},
    "sst2": {"accuracy": "accuracy"},
    "mrpc": {"accuracy": "accuracy", "f1": "f1"},
    "stsb": {"pearson": "pearson", "spearman": "spearmanr"},
}
"""Our names of the metrics of the package's `glue`, and its own."""


def test_a_local_metric_gives_what_its_script_computes(agreement: str) -> None:
    (metric,) = measure_evaluate(f"evaluate:{agreement}", [0, 1, 1, 0], [0, 1, 0, 0], "_far")
    assert (metric.name, metric.value, metric.n) == ("evaluate:agreement_far", 0.75, 4)
    assert (metric.stderr, metric.higher_is_better) == (None, None)


def test_several_numbers_are_several_metrics_and_a_configuration_is_part_of_the_name(agreement: str) -> None:
    metrics = measure_evaluate(f"evaluate:{agreement}/agreement.py:counted", [0, 1], [0, 0])
    assert {metric.name: metric.value for metric in metrics} == {
        "evaluate:agreement:counted/hits": 1.0,
        "evaluate:agreement:counted/rows": 2.0,
    }


def test_a_metric_without_a_number_is_told(agreement: str) -> None:
    with pytest.raises(ValueError, match="there is no number"):
        measure_evaluate(f"evaluate:{agreement}:wordy", [0, 1], [0, 0])


def test_names_are_read_without_the_package() -> None:
    assert parse_evaluate("evaluate:accuracy") == EvaluateName("accuracy")
    assert parse_evaluate("evaluate:glue:mrpc") == EvaluateName("glue", "mrpc")
    assert parse_evaluate("evaluate:glue:mrpc").label == "evaluate:glue:mrpc"
    script = (
        "import sys; from hedgebench.tasks.text_metrics import check_metric; check_metric('evaluate:rouge'); "
        "print('evaluate' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize("name", ["evaluate:", "evaluate:someone/metric", "evaluate:./nowhere", "evaluate:nowhere.d/x"])
def test_what_is_no_metric_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="metric 'evaluate:"):
        parse_evaluate(name)


def test_a_metric_that_cannot_be_had_is_told(modules: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)
    with pytest.raises(DataUnavailableError, match="'evaluate:acuracy' is neither in the cache"):
        load_evaluate("evaluate:acuracy")


def load_or_skip(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package's own metric, out of its cache."""
    pytest.importorskip("evaluate")
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)
    try:
        return load_evaluate(name)
    except DataUnavailableError as error:
        pytest.skip(f"{error}")


@pytest.mark.parametrize("configuration", GLUE)
def test_our_metrics_are_those_of_the_package_s_glue(configuration: str, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = load_or_skip(f"evaluate:glue:{configuration}", monkeypatch)
    rng = np.random.default_rng(0)
    labels, guesses = rng.integers(0, 2, (2, 200)).tolist()
    if configuration == "stsb":
        labels, guesses = rng.normal(size=(2, 200)).tolist()
    theirs = metric.compute(references=labels, predictions=guesses)
    for ours, key in GLUE[configuration].items():
        assert measure(ours, labels, guesses).value == pytest.approx(theirs[key])


def test_our_rouge_is_the_package_s(monkeypatch: pytest.MonkeyPatch) -> None:
    rouge = pytest.importorskip("hedgebench.tasks.rouge", reason="this version has no task that is scored by ROUGE")
    metric = load_or_skip("evaluate:rouge", monkeypatch)
    references = ["the cat sat on the mat", "Amanda baked cookies and will bring some to Jerry"]
    predictions = ["a cat was sitting on the mat", "Amanda bakes cookies for Jerry"]
    theirs = metric.compute(references=references, predictions=predictions, use_stemmer=True)
    for kind in ("rouge1", "rouge2", "rougeL"):
        ours = [scores[kind] for scores in rouge.rouge_scores(references, predictions)]
        assert sum(ours) / len(ours) == pytest.approx(theirs[kind])

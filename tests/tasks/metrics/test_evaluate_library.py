"""Metrics of the package `evaluate`: a script written here, its own where they can be loaded, and what is refused.

`HEDGEBENCH_METRICS=DIR pytest tests/tasks/metrics/test_evaluate_library.py` compares ours with its `glue` and `rouge`
in a folder; `-m slow` with those on the hub.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgebench.tasks.base import DataUnavailableError, Sources
from hedgebench.tasks.data.sources import hub_problem
from hedgebench.tasks.metrics.classification import measure
from hedgebench.tasks.metrics.evaluate_library import EvaluateName, load_evaluate, measure_evaluate, parse_evaluate
from hedgebench.tasks.summarization.rouge import KINDS, rouge_scores, split_sentences

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
        "import sys; from hedgebench.tasks.metrics.requested import check_classes; check_classes('evaluate:rouge', 2); "
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


FOLDER = os.environ.get("HEDGEBENCH_METRICS", "")  # holds glue/glue.py and rouge/rouge.py, as the hub has them
PLACES = ("folder", "cache", pytest.param("hub", marks=pytest.mark.slow))


def load_or_skip(name: str, place: str, request: pytest.FixtureRequest) -> Any:
    """The package's own metric: out of the folder `HEDGEBENCH_METRICS`, out of its cache, or off the hub."""
    pytest.importorskip("evaluate")
    if place == "folder":
        if not FOLDER:
            pytest.skip("HEDGEBENCH_METRICS names no folder with the package's metrics")
        request.getfixturevalue("modules")
        return load_evaluate(f"evaluate:{FOLDER}/{name.removeprefix('evaluate:')}")
    if place == "hub" and (problem := hub_problem(Sources(None, Path("nowhere")))):
        pytest.skip(problem)
    patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    patch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", place == "cache")
    try:
        return load_evaluate(name)
    except DataUnavailableError as error:
        pytest.skip(f"{error}")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("configuration", GLUE)
def test_our_metrics_are_those_of_the_package_s_glue(
    configuration: str, place: str, request: pytest.FixtureRequest
) -> None:
    metric = load_or_skip(f"evaluate:glue:{configuration}", place, request)
    rng = np.random.default_rng(0)
    labels, guesses = rng.integers(0, 2, (2, 200)).tolist()
    if configuration == "stsb":
        labels, guesses = rng.normal(size=(2, 200)).tolist()
    theirs = metric.compute(references=labels, predictions=guesses)
    for ours, key in GLUE[configuration].items():
        assert measure(ours, labels, guesses).value == pytest.approx(theirs[key])


@pytest.mark.parametrize("place", PLACES)
def test_our_rouge_is_the_package_s_text_by_text(place: str, request: pytest.FixtureRequest) -> None:
    """Its mean is the median of a bootstrap. It takes lines for sentences, as `rouge-score` does; ours finds them."""
    metric = load_or_skip("evaluate:rouge", place, request)
    references = [
        "the cat sat on the mat",
        "Amanda baked cookies. She will bring some to Jerry tomorrow!",
        'First this was done.\nThen that: "Why?" Nobody knew.',
    ]
    predictions = [
        "a cat was sitting on the mat",
        "Amanda will bring Jerry cookies. They were baked by Amanda.",
        "Nobody knew. First that was done.",
    ]
    ours = rouge_scores(references, predictions)
    lines = [[split_sentences(text) for text in texts] for texts in (references, predictions)]
    assert [text.count("\n") for text in lines[0]] == [0, 1, 2]
    theirs = metric.compute(references=lines[0], predictions=lines[1], use_stemmer=True, use_aggregator=False)
    assert set(theirs) == set(KINDS)
    for kind in KINDS:
        assert [scores[kind] for scores in ours] == pytest.approx(theirs[kind], abs=1e-12)

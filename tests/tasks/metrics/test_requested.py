"""Tests of tasks/metrics/requested.py, and of the tasks that take the setting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from hedgebench.harness.registry import tasks
from hedgebench.tasks.base import DataUnavailableError, Row, Sources
from hedgebench.tasks.metrics.requested import (
    check_classes,
    check_evaluate,
    measure_answers,
    measure_classes,
    metric_names,
    try_metrics,
)

GENERATED: Mapping[str, list[Row]] = {
    "modular_arithmetic": [
        {"length": 9, "answer": 1, "prediction": 1},
        {"length": 9, "answer": 2, "prediction": 4},
    ],
    "associative_recall": [
        {"answer": 1, "prediction": 1, "correct": True, "pooled": 0},
        {"answer": 2, "prediction": 4, "correct": False, "pooled": 0},
    ],
    "mqar": [{"length": 64, "pairs": 4, "answers": [5, 6, 7], "predictions": [5, 6, 0]}],
    "maze": [{"answers": [5, 6, 7], "predictions": [5, 6, 0], "chance": 0.1}],
}
SHARES = {"modular_arithmetic": 1 / 2, "associative_recall": 1 / 2, "mqar": 2 / 3, "maze": 2 / 3}


def test_names_stand_between_commas_and_count_once() -> None:
    assert metric_names(" f1, evaluate:bleu ,,f1") == ("f1", "evaluate:bleu")
    assert metric_names("") == ()


def test_what_is_no_metric_of_the_task_is_refused() -> None:
    check_evaluate("evaluate:rouge, evaluate:bleu")
    with pytest.raises(ValueError, match="metric 'accuracy' is not of the form evaluate:NAME"):
        check_evaluate("evaluate:rouge, accuracy")
    check_classes("accuracy, evaluate:f1", 3)
    with pytest.raises(ValueError, match="metric 'f1' cannot be taken of 3 classes"):
        check_classes("accuracy, f1", 3)
    with pytest.raises(ValueError, match="unknown metric 'acuracy'"):
        check_classes("acuracy", 3)


def test_metrics_of_classes_leave_out_the_tasks_own(agreement: str) -> None:
    names = f"accuracy, matthews, evaluate:{agreement}"
    metrics = measure_classes(names, [0, 1, 1, 0], [0, 1, 0, 0], ("accuracy",), "_far")
    assert [metric.name for metric in metrics] == ["matthews_far", "evaluate:agreement_far"]


def test_metrics_of_answers_are_over_all_rows(agreement: str) -> None:
    rows: list[Row] = [{"a": [1, 2], "p": [1, 0]}, {"a": [3], "p": [3]}]
    (metric,) = measure_answers(f"evaluate:{agreement}", rows, "a", "p")
    assert metric.value == pytest.approx(2 / 3)
    assert metric.n == 3
    assert measure_answers("", rows, "a", "p") == []


def test_a_metric_that_cannot_be_had_is_found_out_at_once(modules: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)
    with pytest.raises(DataUnavailableError, match="'evaluate:acuracy' is neither in the cache"):
        try_metrics("evaluate:acuracy", [0, 1])


@pytest.mark.parametrize("name", GENERATED)
def test_tasks_of_tokens_take_metrics_of_the_package(name: str, agreement: str, sources: Sources) -> None:
    task, more = tasks().get(name), {"more_metrics": f"evaluate:{agreement}"}
    settings = {**task.info.scales["smoke"].settings, **more}
    scored = {metric.name: metric.value for metric in task.score(GENERATED[name], settings)}
    assert scored["evaluate:agreement"] == pytest.approx(SHARES[name])
    assert "evaluate:agreement" not in {metric.name for metric in task.score(GENERATED[name], {})}
    with pytest.raises(ValueError, match="metric 'accuracy' is not of the form"):
        task.identify({**settings, "more_metrics": "accuracy"}, sources)
    with pytest.raises(ValueError, match="there is no number"):
        task.load({**settings, "more_metrics": f"evaluate:{agreement}:wordy"}, sources)


def test_tasks_of_sequences_take_metrics_of_their_classes(agreement: str, sources: Sources) -> None:
    digits, pathfinder = tasks().get("lra/digits"), tasks().get("lra/pathfinder")
    rows: list[Any] = [{"label": label, "prediction": guess} for label, guess in ((0, 0), (1, 1), (1, 0), (0, 0))]
    scored = pathfinder.score(rows, {"more_metrics": f"f1, accuracy, evaluate:{agreement}:binary"})
    assert [metric.name for metric in scored] == [
        "accuracy",
        "f1",
        "evaluate:agreement:binary",
        "majority_accuracy",
        "constant_f1",
    ]
    assert [metric.value for metric in scored][1:3] == pytest.approx([2 / 3, 3 / 4])
    with pytest.raises(ValueError, match="metric 'f1' cannot be taken of 10 classes"):
        digits.identify({"more_metrics": "f1"}, sources)
    with pytest.raises(ValueError, match="Target is multiclass"):
        digits.load({"more_metrics": f"evaluate:{agreement}:binary"}, sources)


def test_summaries_take_metrics_of_texts(agreement: str) -> None:
    samsum = tasks().get("samsum")
    lengths = {"generated_tokens": 3, "finished": 1, "truncated": 0}
    rows: list[Row] = [
        {"reference": "a cat", "prediction": "a cat", **lengths},
        {"reference": "a dog", "prediction": "a cat", **lengths},
    ]
    scored = {m.name: m.value for m in samsum.score(rows, {"more_metrics": f"evaluate:{agreement}:text"})}
    assert scored["evaluate:agreement:text"] == 0.5
    assert "rouge1" in scored

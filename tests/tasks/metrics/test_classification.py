"""Tests of tasks/metrics/classification.py."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from hedgebench.results.names import UnknownNameError
from hedgebench.results.stats import agreement
from hedgebench.tasks.metrics.classification import MEASURES, constant_f1, measure, without_learning
from hedgebench.tasks.metrics.requested import check_classes, measure_classes, try_metrics

from ...results.correlations import pearson, spearman

LABELS = [0, 0, 1, 1, 1, 0, 1, 0]
GUESSES = [0, 1, 1, 1, 0, 0, 1, 0]


@pytest.mark.parametrize("name", list(MEASURES))
def test_perfect_predictions_score_one_without_error(name: str) -> None:
    metric = measure(name, LABELS, LABELS)
    assert metric.value == pytest.approx(1)
    assert (metric.unit, metric.higher_is_better, metric.n) == ("1", True, 8)


@pytest.mark.parametrize(
    ("name", "expected"), [("accuracy", 6 / 8), ("f1", 3 / 4), ("matthews", 1 / 2), ("pearson", 1 / 2)]
)
def test_metrics_by_hand(name: str, expected: float) -> None:
    """Three true positives, three true negatives, and one error of either kind."""
    metric = measure(name, LABELS, GUESSES)
    assert metric.value == pytest.approx(expected)
    assert metric.stderr is None or 0.05 < metric.stderr < 0.5


def test_the_error_of_an_accuracy_is_the_closed_form() -> None:
    assert measure("accuracy", LABELS, GUESSES).stderr == pytest.approx(math.sqrt(0.75 * 0.25 / 7))


def test_f1_without_learning_is_that_of_always_answering_the_positive_class() -> None:
    """279 of the 408 pairs of MRPC's validation split are paraphrases; GLUE's majority baseline there is 81.2."""
    level = constant_f1([1] * 279 + [0] * 129, "_far")
    assert level.value == pytest.approx(2 * 279 / (279 + 408))
    assert (level.name, level.higher_is_better, level.n) == ("constant_f1_far", None, 408)
    assert level.stderr == pytest.approx(measure("f1", [1] * 279 + [0] * 129, [1] * 408).stderr)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_no_answer_that_does_not_look_at_the_input_has_a_better_f1(share: float) -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(2_000) < share
    best = constant_f1(labels.astype(int).tolist()).value
    assert best is not None
    blind = [measure("f1", labels.tolist(), (rng.random(2_000) < rate).tolist()).value for rate in (0, 0.2, 0.5, 0.95)]
    assert max(value for value in blind if value is not None) < best


def test_only_metrics_that_are_measured_have_a_level_without_learning() -> None:
    assert [level.name for level in without_learning([measure("f1", LABELS, GUESSES)], LABELS)] == ["constant_f1"]
    assert without_learning([measure("matthews", LABELS, GUESSES)], LABELS) == []


def test_any_number_of_classes_has_an_accuracy() -> None:
    assert measure("accuracy", [0, 1, 2, 2], [0, 2, 2, 1]).value == 0.5


def test_a_suffix_ends_the_name() -> None:
    assert measure("accuracy", [1], [1], "_mismatched").name == "accuracy_mismatched"


RNG = np.random.default_rng(17)
CLASSES: dict[str, tuple[list[int], list[int]]] = {
    "random": (RNG.integers(0, 2, 300).tolist(), RNG.integers(0, 2, 300).tolist()),
    "one class rare": ([1] + [0] * 299, (RNG.random(300) < 0.02).astype(int).tolist()),
    "perfect": ([0, 1, 1, 0], [0, 1, 1, 0]),
    "inverted": ([0, 1, 1, 0], [1, 0, 0, 1]),
    "predictions all 0": ([0, 1, 1, 0], [0, 0, 0, 0]),
    "predictions all 1": ([0, 1, 1, 0], [1, 1, 1, 1]),
    "labels all 0": ([0, 0, 0], [0, 1, 0]),
    "labels all 1": ([1, 1, 1], [0, 1, 1]),
    "class 1 nowhere": ([0, 0], [0, 0]),
    "a single row": ([1], [1]),
}
VALUES: dict[str, tuple[list[float], list[float]]] = {
    "random": (RNG.normal(size=200).tolist(), RNG.normal(size=200).tolist()),
    "scores with ties": (RNG.integers(0, 6, 200).tolist(), np.round(RNG.uniform(0, 5, 200), 1).tolist()),
    "monotone": ([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 8.0, 27.0]),
    "falling": ([0.0, 1.0, 2.0], [5.0, 3.0, 1.0]),
    "outlier": ([0.0, 1.0, 2.0, 3.0], [0.0, -1.0, 2.0, 1e6]),
    "two rows": ([0.0, 1.0], [1.0, 3.0]),
}


def _scipys(function: Callable[..., object]) -> Callable[..., float]:
    return lambda x, y: float(function(x, y).statistic)  # type: ignore[attr-defined]


FORMULAS: dict[str, tuple[Callable[..., float], Callable[..., float]]] = {
    "matthews": (
        lambda x, y: float(agreement.matthews(agreement.confusion_counts(x, y))),
        sklearn.metrics.matthews_corrcoef,
    ),
    "f1": (
        lambda x, y: float(agreement.f1(agreement.confusion_counts(x, y))),
        sklearn.metrics.f1_score,
    ),
    "accuracy": (lambda x, y: float(np.mean(np.equal(x, y))), sklearn.metrics.accuracy_score),
    "pearson": (pearson, _scipys(scipy.stats.pearsonr)),
    "spearman": (spearman, _scipys(scipy.stats.spearmanr)),
}
"""The formula that is bootstrapped, and the library's."""


@pytest.mark.parametrize("case", CLASSES)
@pytest.mark.parametrize("name", ["matthews", "f1", "accuracy"])
def test_what_is_reported_and_what_is_bootstrapped_are_scikit_learn_s(name: str, case: str) -> None:
    labels, guesses = CLASSES[case]
    ours, theirs = FORMULAS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of a class that is nowhere
        expected = theirs(labels, guesses)
    assert measure(name, labels, guesses).value == pytest.approx(expected, abs=1e-12)
    assert ours(labels, guesses) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("case", VALUES)
@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_what_is_reported_and_what_is_bootstrapped_are_scipy_s(name: str, case: str) -> None:
    labels, guesses = VALUES[case]
    ours, theirs = FORMULAS[name]
    assert measure(name, labels, guesses).value == pytest.approx(theirs(labels, guesses), abs=1e-12)
    assert ours(labels, guesses) == pytest.approx(theirs(labels, guesses), abs=1e-9)


@pytest.mark.parametrize("name", ["pearson", "spearman"])
@pytest.mark.parametrize(("labels", "guesses"), [([1.0], [2.0]), ([1.0, 2.0], [3.0, 3.0]), ([2.0, 2.0], [1.0, 3.0])])
def test_without_variation_there_is_no_correlation(name: str, labels: list[float], guesses: list[float]) -> None:
    metric = measure(name, labels, guesses)
    assert metric.value is not None
    assert math.isnan(metric.value)
    assert metric.stderr is None


@pytest.mark.parametrize(
    ("name", "num_classes", "message"),
    [
        ("f1", 3, "metric 'f1' cannot be taken of 3 classes; allowed: accuracy, or evaluate:NAME"),
        ("matthews", 10, "metric 'matthews' cannot be taken of 10 classes"),
        ("accuracy", 1, "metric 'accuracy' cannot be taken of a regression; allowed: pearson, spearman"),
        ("spearman", 3, "metric 'spearman' cannot be taken of 3 classes"),
    ],
)
def test_a_metric_that_does_not_fit_the_labels_is_refused(name: str, num_classes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_classes(name, num_classes)


def test_metrics_that_fit_are_let_through() -> None:
    for name in MEASURES:
        check_classes(name, 2)
    check_classes("pearson", 1)
    check_classes("accuracy", 10)
    check_classes("evaluate:f1", 3)


def test_a_metric_of_the_package_is_tried_on_every_class(agreement: str) -> None:
    name = f"evaluate:{agreement}:binary"
    try_metrics(name, [0, 1])
    try_metrics("f1", [0, 1, 2])
    with pytest.raises(ValueError, match="Target is multiclass"):
        try_metrics(name, [0, 1, 2])


def test_a_metric_that_does_not_exist_is_named_with_its_neighbour() -> None:
    with pytest.raises(UnknownNameError, match=r"'acuracy'; did you mean accuracy.*evaluate:NAME"):
        check_classes("acuracy", 2)
    assert [metric.name for metric in measure_classes("f1", LABELS, GUESSES, (), "_far")] == ["f1_far"]

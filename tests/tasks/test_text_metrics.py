"""Tests of tasks/text_metrics.py."""

from __future__ import annotations

import math

import pytest

from hedgebench.tasks.text_metrics import MEASURES, measure

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


def test_any_number_of_classes_has_an_accuracy() -> None:
    assert measure("accuracy", [0, 1, 2, 2], [0, 2, 2, 1]).value == 0.5


def test_a_suffix_ends_the_name() -> None:
    assert measure("accuracy", [1], [1], "_mismatched").name == "accuracy_mismatched"

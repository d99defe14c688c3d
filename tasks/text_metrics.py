"""Metrics of classified texts, each with its standard error, out of labels and predictions alone.

Accuracies have it in closed form, Matthews correlation and F1 from a bootstrap of their counts, correlations from one
of the pairs. All of them are fractions, where tables of GLUE print percentages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from ..results.record import Metric

Measure: TypeAlias = Callable[[Sequence[float], Sequence[float]], tuple[float, float | None]]
"""From labels and predictions to a value and its standard error."""


def measure(name: str, labels: Sequence[float], predictions: Sequence[float], suffix: str = "") -> Metric:
    """One of `MEASURES` as a metric.

    Args:
        name: Key of `MEASURES`.
        labels: What is right.
        predictions: What the model says.
        suffix: What the metric's name ends in.
    """
    value, stderr = MEASURES[name](labels, predictions)
    return Metric(name + suffix, value, "1", True, stderr, len(labels))


def _accuracy(labels: Sequence[float], predictions: Sequence[float]) -> tuple[float, float | None]:
    from ..results.statistics import accuracy_stderr

    correct = sum(label == prediction for label, prediction in zip(labels, predictions, strict=True))
    return correct / len(labels), accuracy_stderr(correct, len(labels))


def _matthews(labels: Sequence[float], predictions: Sequence[float]) -> tuple[float, float | None]:
    from ..results.agreement import confusion_counts, matthews, matthews_stderr

    counts = confusion_counts(labels, predictions)
    return float(matthews(counts)), matthews_stderr(counts)


def _f1(labels: Sequence[float], predictions: Sequence[float]) -> tuple[float, float | None]:
    from ..results.agreement import confusion_counts, f1, f1_stderr

    counts = confusion_counts(labels, predictions)
    return float(f1(counts)), f1_stderr(counts)


def _pearson(labels: Sequence[float], predictions: Sequence[float]) -> tuple[float, float | None]:
    from ..results.agreement import pearson, pearson_stderr

    return pearson(labels, predictions), pearson_stderr(labels, predictions)


def _spearman(labels: Sequence[float], predictions: Sequence[float]) -> tuple[float, float | None]:
    from ..results.agreement import spearman, spearman_stderr

    return spearman(labels, predictions), spearman_stderr(labels, predictions)


MEASURES: Mapping[str, Measure] = {
    "accuracy": _accuracy,
    "matthews": _matthews,
    "f1": _f1,
    "pearson": _pearson,
    "spearman": _spearman,
}

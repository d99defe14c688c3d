"""Metrics of classified texts, each with its standard error, out of labels and predictions alone.

Values are scikit-learn's and SciPy's. Accuracies have their error in closed form, Matthews correlation and F1 from a
bootstrap of their counts, correlations from one of the pairs; the vectorised formulas behind the bootstraps, in
`results/stats/agreement.py`, are held to the same libraries. All are fractions, where tables of GLUE print percentages.
Any metric of the package `evaluate` can be asked for beside them; see `evaluate_library.py`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from ...results.names import UnknownNameError, unknown_name
from ...results.record import Metric
from .evaluate_library import PREFIX, measure_evaluate, parse_evaluate

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


def measure_any(name: str, labels: Sequence[float], predictions: Sequence[float], suffix: str = "") -> list[Metric]:
    """One of `MEASURES`, or all that `evaluate:NAME` gives; arguments as of `measure`."""
    if name.startswith(PREFIX):
        return measure_evaluate(name, labels, predictions, suffix)
    return [measure(name, labels, predictions, suffix)]


def check_metric(name: str) -> None:
    """Sees to it that a metric of that name exists, as far as that is known without loading anything.

    Raises:
        UnknownNameError: It is neither one of `MEASURES` nor `evaluate:NAME`.
        ValueError: A local metric that is not there.
    """
    if name.startswith(PREFIX):
        parse_evaluate(name)
    elif name not in MEASURES:
        raise UnknownNameError(
            f"{unknown_name('metric', name, MEASURES)}; evaluate:NAME is one of the package evaluate"
        )


def check_fit(name: str, num_classes: int) -> None:
    """Sees to it that a metric of `MEASURES` can be taken over so many classes; others are tried by `try_metric`.

    Args:
        name: As of `measure_any`.
        num_classes: Number of classes, 1 for a regression.

    Raises:
        ValueError: It cannot.
    """
    if name in MEASURES and num_classes not in _CLASSES[name]:
        of = f"{num_classes} classes" if num_classes > 1 else "a regression"
        fitting = ", ".join(other for other in MEASURES if num_classes in _CLASSES[other])
        raise ValueError(f"metric {name!r} cannot be taken of {of}; allowed: {fitting}, or evaluate:NAME")


def try_metric(name: str, references: Sequence[Any]) -> None:
    """Takes a metric of the package `evaluate` of references that are their own predictions, before a model is trained.

    Args:
        name: As of `measure_any`; of `MEASURES` nothing is tried.
        references: A few of them, each class among them.

    Raises:
        DataUnavailableError: It cannot be had.
        ValueError: It gives no number of such references; what its script raises passes through.
    """
    if name.startswith(PREFIX):
        measure_evaluate(name, references, references)


def _accuracy(labels: Sequence[float], predictions: Sequence[float]) -> tuple[float, float | None]:
    from sklearn.metrics import accuracy_score

    from ...results.stats.statistics import accuracy_stderr

    correct = int(accuracy_score(labels, predictions, normalize=False))
    return correct / len(labels), accuracy_stderr(correct, len(labels))


def _matthews(labels: Sequence[float], predictions: Sequence[float]) -> tuple[float, float | None]:
    from sklearn.metrics import matthews_corrcoef

    from ...results.stats.agreement import confusion_counts, matthews_stderr

    stderr = matthews_stderr(confusion_counts(labels, predictions))
    if len({*labels, *predictions}) == 1:  # it is 0 to scikit-learn too, which warns
        return 0.0, stderr
    return float(matthews_corrcoef(labels, predictions)), stderr


def _f1(labels: Sequence[float], predictions: Sequence[float]) -> tuple[float, float | None]:
    from sklearn.metrics import f1_score

    from ...results.stats.agreement import confusion_counts, f1_stderr

    stderr = f1_stderr(confusion_counts(labels, predictions))
    if 1 not in {*labels, *predictions}:  # it is 0 to scikit-learn too, which warns
        return 0.0, stderr
    return float(f1_score(labels, predictions)), stderr


def _pearson(labels: Sequence[float], predictions: Sequence[float]) -> tuple[float, float | None]:
    from scipy.stats import pearsonr

    from ...results.stats.agreement import pearson_stderr

    return _correlation(pearsonr, labels, predictions), pearson_stderr(labels, predictions)


def _spearman(labels: Sequence[float], predictions: Sequence[float]) -> tuple[float, float | None]:
    from scipy.stats import spearmanr

    from ...results.stats.agreement import spearman_stderr

    return _correlation(spearmanr, labels, predictions), spearman_stderr(labels, predictions)


def _correlation(function: Callable[..., Any], labels: Sequence[float], predictions: Sequence[float]) -> float:
    """SciPy's value; NaN where a side does not vary, of which SciPy warns, or is a single value, which it refuses."""
    varies = len(set(labels)) > 1 and len(set(predictions)) > 1
    return float(function(labels, predictions).statistic) if varies else math.nan


_CLASSES: Mapping[str, range] = {
    "accuracy": range(2, sys.maxsize),
    "matthews": range(2, 3),
    "f1": range(2, 3),
    "pearson": range(1, 3),
    "spearman": range(1, 3),
}
"""How many classes each of `MEASURES` takes; 1 is a regression."""

MEASURES: Mapping[str, Measure] = {
    "accuracy": _accuracy,
    "matthews": _matthews,
    "f1": _f1,
    "pearson": _pearson,
    "spearman": _spearman,
}

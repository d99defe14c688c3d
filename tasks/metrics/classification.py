"""Metrics of classified texts, each with its standard error, from labels and predictions alone.

Values are scikit-learn's and SciPy's. Accuracies have their error in closed form, Matthews correlation and F1 from a
bootstrap of their counts, correlations from one of the pairs. The vectorised formulas behind the bootstraps, in
`results/stats/agreement.py`, are tested against the same libraries. All values are fractions; tables of GLUE print
percentages. Metrics beside these come from the package `evaluate`; see `requested.py`.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from ...results.record import Metric

Estimate: TypeAlias = tuple[float, float | None]
"""A value and its standard error."""


@dataclass(frozen=True)
class Measure:
    """A metric of classes or of a regression.

    Attributes:
        estimate: From labels and predictions to a value and its standard error.
        classes: Numbers of classes that it fits; 1 is a regression.
    """

    estimate: Callable[[Sequence[float], Sequence[float]], Estimate]
    classes: range


def measure(name: str, labels: Sequence[float], predictions: Sequence[float], suffix: str = "") -> Metric:
    """One of `MEASURES` as a metric.

    Args:
        name: Key of `MEASURES`.
        labels: The right classes or values.
        predictions: The model's.
        suffix: Suffix of the metric's name.
    """
    value, stderr = MEASURES[name].estimate(labels, predictions)
    return Metric(name + suffix, value, "1", True, stderr, len(labels))


def majority_accuracy(labels: Sequence[float], suffix: str = "") -> Metric:
    """The accuracy of always answering with the most frequent class, a reference without a better direction."""
    from ...results.stats.statistics import accuracy_stderr

    ((_, commonest),) = Counter(labels).most_common(1)
    n = len(labels)
    stderr = accuracy_stderr(commonest, n)
    return Metric(f"majority_accuracy{suffix}", commonest / n, "1", None, stderr, n)


def _accuracy(labels: Sequence[float], predictions: Sequence[float]) -> Estimate:
    from sklearn.metrics import accuracy_score

    from ...results.stats.statistics import accuracy_stderr

    correct = int(accuracy_score(labels, predictions, normalize=False))
    return correct / len(labels), accuracy_stderr(correct, len(labels))


def _matthews(labels: Sequence[float], predictions: Sequence[float]) -> Estimate:
    from sklearn.metrics import matthews_corrcoef

    from ...results.stats.agreement import confusion_counts, matthews_stderr

    stderr = matthews_stderr(confusion_counts(labels, predictions))
    if len({*labels, *predictions}) == 1:  # scikit-learn returns 0 too, but warns
        return 0.0, stderr
    return float(matthews_corrcoef(labels, predictions)), stderr


def _f1(labels: Sequence[float], predictions: Sequence[float]) -> Estimate:
    from sklearn.metrics import f1_score

    from ...results.stats.agreement import confusion_counts, f1_stderr

    score = f1_score(labels, predictions, zero_division=0.0)  # pyright: ignore[reportArgumentType]
    return float(score), f1_stderr(confusion_counts(labels, predictions))


def _correlation(labels: Sequence[float], predictions: Sequence[float], *, of_ranks: bool) -> Estimate:
    """Spearman's or Pearson's correlation by SciPy; NaN if labels or predictions are all equal, as SciPy then warns."""
    from scipy.stats import pearsonr, spearmanr

    from ...results.stats.agreement import pearson_stderr, spearman_stderr

    correlation: Any = spearmanr if of_ranks else pearsonr
    stderr = spearman_stderr if of_ranks else pearson_stderr
    varies = len(set(labels)) > 1 and len(set(predictions)) > 1
    value = float(correlation(labels, predictions).statistic) if varies else math.nan
    return value, stderr(labels, predictions)


MEASURES: Mapping[str, Measure] = {
    "accuracy": Measure(_accuracy, range(2, sys.maxsize)),
    "matthews": Measure(_matthews, range(2, 3)),
    "f1": Measure(_f1, range(2, 3)),
    "pearson": Measure(partial(_correlation, of_ranks=False), range(1, 3)),
    "spearman": Measure(partial(_correlation, of_ranks=True), range(1, 3)),
}

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
from dataclasses import dataclass, replace
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


def without_learning(metrics: Sequence[Metric], labels: Sequence[float], suffix: str = "") -> list[Metric]:
    """What accuracy and F1 are without learning, for those of them that are among the metrics of one split."""
    levels = {"accuracy": majority_accuracy, "f1": constant_f1}
    names = {metric.name for metric in metrics}
    return [level(labels, suffix) for name, level in levels.items() if f"{name}{suffix}" in names]


def constant_f1(labels: Sequence[float], suffix: str = "") -> Metric:
    """The F1 of always answering class 1, which only describes: the best that an answer without learning can expect.

    With a share p of class 1 and answers of class 1 at rate q whatever the input, the counts in expectation give
    F1 = 2 p q / (p + q). That grows with q up to 2 p / (1 + p) at q = 1; always answering class 0 gives 0.
    """
    return replace(measure("f1", labels, [1] * len(labels)), name=f"constant_f1{suffix}", higher_is_better=None)


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

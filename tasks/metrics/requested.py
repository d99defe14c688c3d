"""The setting `more_metrics`: metrics beside a task's own, over the references and predictions that its rows hold.

Names are separated by commas. Tasks of classes take keys of `MEASURES` in `text_metrics.py` and `evaluate:NAME`; those
of written texts and of generated tokens take `evaluate:NAME` alone, as their own metrics mean something else under the
same names. What cannot be had, or cannot be taken of such references, is found out before a model is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...results.record import Metric
from .classification import check_fit, check_metric, measure_any, try_metric
from .evaluate_library import measure_evaluate, parse_evaluate


def metric_names(more_metrics: str) -> tuple[str, ...]:
    """The names in a setting, each once."""
    return tuple(dict.fromkeys(name.strip() for name in more_metrics.split(",") if name.strip()))


def check_evaluate(more_metrics: str) -> None:
    """Sees to it that every name is one of the package `evaluate`, by its form.

    Raises:
        ValueError: A name is of another form, or names a path where no metric lies.
    """
    for name in metric_names(more_metrics):
        parse_evaluate(name)


def check_classes(more_metrics: str, num_classes: int) -> None:
    """Sees to it that every name can be a metric of so many classes; 1 is a regression.

    Raises:
        ValueError: A name is none, or is a metric of other tasks.
    """
    for name in metric_names(more_metrics):
        check_metric(name)
        check_fit(name, num_classes)


def try_metrics(more_metrics: str, references: Sequence[Any]) -> None:
    """Takes each metric of the package of references that are their own predictions; errors as of `try_metric`."""
    for name in metric_names(more_metrics):
        try_metric(name, references)


def measure_classes(
    more_metrics: str, labels: Sequence[float], predictions: Sequence[float], own: Sequence[str], suffix: str = ""
) -> list[Metric]:
    """The metrics of a task of classes that are not among its `own`; other arguments as of `measure`."""
    names = [name for name in metric_names(more_metrics) if name not in own]
    return [metric for name in names for metric in measure_any(name, labels, predictions, suffix)]


def measure_answers(more_metrics: str, rows: Sequence[Mapping[str, Any]], answer: str, prediction: str) -> list[Metric]:
    """The metrics of the package over all rows.

    Args:
        more_metrics: The setting.
        rows: Predictions.
        answer: Key of a row's reference, or list of references.
        prediction: Key of its prediction, or list of as many.
    """
    names = metric_names(more_metrics)
    references, predictions = (
        [each for row in rows for each in (row[key] if isinstance(row[key], list) else [row[key]])]
        for key in (answer, prediction)
    )
    return [metric for name in names for metric in measure_evaluate(name, references, predictions)]

"""The setting `more_metrics`: metrics beside a task's own, over the references and predictions that its rows hold.

Names are separated by commas. Tasks of classes take keys of `MEASURES` in `classification.py` and `evaluate:NAME`;
tasks of texts and of tokens take `evaluate:NAME` alone, as their own metrics mean something else under the same names.
A metric that is not available or does not fit is refused before a model is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...results.names import UnknownNameError, unknown_name
from ...results.record import Metric
from .classification import MEASURES, measure
from .evaluate_library import PREFIX, measure_evaluate, parse_evaluate


def metric_names(more_metrics: str) -> tuple[str, ...]:
    """The names in a setting, each once."""
    return tuple(dict.fromkeys(name.strip() for name in more_metrics.split(",") if name.strip()))


def check_evaluate(more_metrics: str) -> None:
    """Refuses names that are not of the package `evaluate`, by their form.

    Raises:
        ValueError: A name has another form, or is a path without a metric.
    """
    for name in metric_names(more_metrics):
        parse_evaluate(name)


def check_classes(more_metrics: str, num_classes: int) -> None:
    """Refuses metrics that do not fit a number of classes; 1 is a regression.

    Names of the package `evaluate` are checked by their form alone; `try_metrics` finds out whether they fit.

    Raises:
        UnknownNameError: A name is neither one of `MEASURES` nor `evaluate:NAME`.
        ValueError: A metric does not fit, or a local metric does not exist.
    """
    for name in metric_names(more_metrics):
        if name.startswith(PREFIX):
            parse_evaluate(name)
        elif name not in MEASURES:
            raise UnknownNameError(
                f"{unknown_name('metric', name, MEASURES)}; evaluate:NAME is one of the package evaluate"
            )
        elif num_classes not in MEASURES[name].classes:
            of = f"{num_classes} classes" if num_classes > 1 else "a regression"
            fitting = ", ".join(other for other, each in MEASURES.items() if num_classes in each.classes)
            raise ValueError(f"metric {name!r} cannot be taken of {of}; allowed: {fitting}, or evaluate:NAME")


def try_metrics(more_metrics: str, references: Sequence[Any], predictions: Sequence[Any] | None = None) -> None:
    """Tries each metric of the package `evaluate` on a few references that are also the predictions.

    Args:
        more_metrics: The setting.
        references: A few references, each class among them; lists of them if the task's data have several.
        predictions: Predictions that equal the references; None for the references themselves. A task with several
            references per row gives one prediction for each list.

    Raises:
        DataUnavailableError: A metric is not available.
        ValueError: A metric returns no number for such references; other errors of its script pass through.
    """
    for name in metric_names(more_metrics):
        if name.startswith(PREFIX):
            measure_evaluate(name, references, references if predictions is None else predictions)


def measure_classes(
    more_metrics: str, labels: Sequence[float], predictions: Sequence[float], own: Sequence[str], suffix: str = ""
) -> list[Metric]:
    """The requested metrics of a task of classes, without those among its `own`; other arguments as in `measure`."""
    metrics: list[Metric] = []
    for name in metric_names(more_metrics):
        if name.startswith(PREFIX):
            metrics += measure_evaluate(name, labels, predictions, suffix)
        elif name not in own:
            metrics.append(measure(name, labels, predictions, suffix))
    return metrics


def measure_answers(more_metrics: str, rows: Sequence[Mapping[str, Any]], answer: str, prediction: str) -> list[Metric]:
    """The metrics of the package `evaluate` over all rows.

    Args:
        more_metrics: The setting.
        rows: Predictions.
        answer: Key of a row's reference, or list of references.
        prediction: Key of a row's prediction, or list of predictions. One prediction takes the whole list of
            references; a list of predictions takes as many references, one for each.
    """
    references: list[Any] = []
    predictions: list[Any] = []
    for row in rows:
        one = not isinstance(row[prediction], list)
        references += [row[answer]] if one else row[answer]
        predictions += [row[prediction]] if one else row[prediction]
    return [metric for name in metric_names(more_metrics) for metric in measure_evaluate(name, references, predictions)]

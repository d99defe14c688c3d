"""Metrics of an lm-eval task from the values of its documents: lm-eval's own aggregation and standard errors.

lm-eval resamples documents 100,000 times where it knows no closed form, which takes it minutes for a Matthews
correlation. `bootstrap_iters` resamples, 1,000 by default, are the first that lm-eval would draw; a standard error from
1,000 is itself known to 2%. Where lm-eval gives none, as for perplexity per word, documents are resampled here.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from ...results.record import Metric
from ..base import INPUT, Row
from .config import GENERATES, NO_FILTER, TaskConfig, metric_name

if TYPE_CHECKING:
    from ...results.stats.statistics import RatioStatistic

Aggregation: TypeAlias = Callable[[Sequence[Any]], float]

UNITS: Mapping[str, str] = {"bits_per_byte": "bits/byte"}
VALUES = "values"
"""Key of a row under which the values are kept that are no plain numbers."""

_NO_METRICS = frozenset({"document", "target", "responses", VALUES, INPUT})
_FEW_DRAWS = frozenset({"bleu", "chrf", "chrf++", "ter"})
"""Metrics that lm-eval resamples at most 100 times."""


def to_rows(samples: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One JSON-ready row per document out of lm-eval's samples, which are one per document and filter.

    A row holds each metric's value under the metric's name where it is a number, else below `values`; `responses`, what
    the model answered to each request; and the requests themselves under `input_key`.
    """
    rows: dict[int, Row] = {}
    for sample in samples:
        row = rows.setdefault(
            sample["doc_id"],
            {
                "document": sample["doc_id"],
                "target": _plain(sample["target"]),
                "responses": _plain(sample["resps"]),
                VALUES: {},
                INPUT: _plain(sample["arguments"]),
            },
        )
        for metric in sample["metrics"]:
            name, value = metric_name(metric, sample["filter"]), _plain(sample[metric])
            is_number = isinstance(value, int | float) and name not in _NO_METRICS
            (row if is_number else row[VALUES])[name] = value
    return list(rows.values())


def to_metrics(rows: Sequence[Row], config: TaskConfig, bootstrap_iters: int) -> list[Metric]:
    """Every metric that the rows have values of, in the order first seen."""
    names = dict.fromkeys(name for row in rows for name in (*row, *row[VALUES]) if name not in _NO_METRICS)
    rules = _Rules(config)
    metrics = []
    for name in names:
        values = [row[VALUES].get(name, row.get(name)) for row in rows if name in row or name in row[VALUES]]
        metric = rules.stem(name)
        aggregate = rules.aggregation(metric)
        metrics.append(
            Metric(
                name,
                float(aggregate(values)),
                UNITS.get(metric, "1"),
                rules.higher_is_better(metric),
                standard_error(metric, aggregate, values, bootstrap_iters),
                len(values),
            )
        )
    return metrics


def standard_error(metric: str, aggregate: Aggregation, values: Sequence[Any], bootstrap_iters: int) -> float | None:
    """lm-eval's standard error of a metric; ours for ratios of sums, for which it has none; None where none is known.

    Args:
        metric: Its name.
        aggregate: What makes it from the values of documents.
        values: One per document.
        bootstrap_iters: Resamples where there is no closed form.
    """
    from lm_eval.api.metrics import bits_per_byte, stderr_for_metric, weighted_perplexity

    from ...results.stats.statistics import ratio_bootstrap

    if len(values) < 2:
        return None
    if aggregate in (weighted_perplexity, bits_per_byte):
        nats, sizes = zip(*values, strict=True)
        statistic: RatioStatistic = "exp_ratio" if aggregate is weighted_perplexity else "bits_ratio"
        return ratio_bootstrap([-n for n in nats], sizes, statistic)
    draws = min(bootstrap_iters, 100) if metric in _FEW_DRAWS else bootstrap_iters
    estimate = stderr_for_metric(aggregate, draws)
    if estimate is None:
        return None
    os.environ.setdefault("DISABLE_MULTIPROC", "1")  # a pool of forks below a process that has threads may hang
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        error = float(estimate(values))
    return error if math.isfinite(error) else None


class _Rules:
    """How a task aggregates each metric, and which direction is better, read without its data."""

    def __init__(self, config: TaskConfig) -> None:
        self.filters = [entry["name"] for entry in config.values.get("filter_list") or ()]
        self.aggregations: dict[str, Any] = {}
        self.directions: dict[str, bool | None] = {}
        values = config.loaded()
        if config.is_class:
            task = values["class"].__new__(values["class"])
            self.aggregations, self.directions = dict(task.aggregation()), dict(task.higher_is_better())
        for entry in values.get("metric_list") or _default_metrics(values):
            self._add(entry)

    def stem(self, name: str) -> str:
        """lm-eval's name of a metric, without that of a filter."""
        ending = next((f".{each}" for each in self.filters if each != NO_FILTER and name.endswith(f".{each}")), "")
        return name.removesuffix(ending)

    def aggregation(self, metric: str) -> Aggregation:
        """The function that makes the metric from the values of documents.

        A name that the task does not list is one of several that its only metric gives, or else is averaged.
        """
        from lm_eval.api.metrics import mean

        found: Aggregation = self.aggregations.get(metric, self._only(self.aggregations) or mean)
        return found

    def higher_is_better(self, metric: str) -> bool | None:
        """The direction of improvement; None where nothing says."""
        return self.directions.get(metric, self._only(self.directions))

    def _add(self, entry: Mapping[str, Any]) -> None:
        from lm_eval.api.registry import get_aggregation, higher_is_better_registry, metric_agg_registry

        metric = entry["metric"]
        name = metric.__name__ if callable(metric) else metric
        aggregation = entry.get("aggregation") or metric_agg_registry.get(name)
        self.aggregations[name] = get_aggregation(aggregation) if isinstance(aggregation, str) else aggregation
        self.directions[name] = entry.get("higher_is_better", higher_is_better_registry.get(name, None))

    @staticmethod
    def _only(values: Mapping[str, Any]) -> Any:
        return next(iter(values.values())) if len(values) == 1 else None


def _default_metrics(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The metrics of a task that lists none."""
    import lm_eval.api.metrics  # noqa: F401  (registers them)
    from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY

    if "class" in values:
        return []
    return [{"metric": name} for name in DEFAULT_METRIC_REGISTRY[values.get("output_type", GENERATES)]]


def _plain(value: Any) -> Any:
    """Values as JSON keeps them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy's numbers and arrays
        return _plain(value.tolist())
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)

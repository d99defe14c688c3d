"""Metrics of an lm-eval task from the values of its documents: lm-eval's own aggregation and standard errors.

lm-eval resamples documents 100,000 times if it knows no closed form, which takes it minutes for a Matthews
correlation. `bootstrap_iters` resamples, 1,000 by default, are the first that lm-eval would draw; a standard error from
1,000 is itself known to 2%. Metrics without an error in lm-eval, such as perplexity per word, are resampled here.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from ...adapters.base import UnsupportedError
from ...results.record import UNSCORED, Metric
from ..base import INPUT, Row
from ..summarization.rouge import dropped_letters
from .config import NO_FILTER, TaskConfig, metric_name

if TYPE_CHECKING:
    from ...results.stats.statistics import RatioStatistic

Aggregation: TypeAlias = Callable[[Sequence[Any]], float]

UNITS: Mapping[str, str] = {"bits_per_byte": "bits/byte"}
VALUES = "values"
"""Key of a row for metric values that are not plain numbers."""

NOTES = "notes"
"""Key of a row for remarks on all rows, which the record takes over."""

_SHOWN = 5
_NO_METRICS = frozenset({"document", "target", "responses", VALUES, INPUT, UNSCORED, NOTES})
_FEW_DRAWS = frozenset({"bleu", "chrf", "chrf++", "ter"})
"""Metrics that lm-eval resamples at most 100 times."""


def to_rows(samples: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One JSON-ready row per document from lm-eval's samples, which are one per document and filter.

    A row holds each metric's value under the metric's name if it is a number, else below `values`; `responses`, the
    model's answer to each request; and the requests themselves under `INPUT`.
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


def leave_out(rows: Sequence[Row], unscored: Mapping[int, str], without_context: Collection[int]) -> list[Row]:
    """The rows, without metrics for documents that have no score; the first row notes which, and why.

    It also notes what ROUGE drops of texts.

    Args:
        rows: One per document.
        unscored: Why a document has no score.
        without_context: Documents whose context is white space alone.

    Raises:
        UnsupportedError: No document has a score.
    """
    if rows and all(row["document"] in unscored for row in rows):
        raise UnsupportedError(f"none of the {len(rows)} documents can be scored: {next(iter(unscored.values()))}")
    kept: list[Row] = []
    for row in rows:
        reason = unscored.get(row["document"])
        left = {key: value for key, value in row.items() if key in _NO_METRICS}
        kept.append(row if reason is None else {**left, VALUES: {}, UNSCORED: reason})
    notes = [
        f"{_named([each for each, why in unscored.items() if why == reason], len(rows))} unscored: {reason}"
        for reason in dict.fromkeys(unscored.values())
    ]
    if without_context:
        named = _named(sorted(without_context), len(rows))
        notes.append(
            f"{named} scored without context, where lm-eval's own model fails: their context is white space alone"
        )
    notes += _dropped_by_rouge(rows)
    return [{**kept[0], NOTES: notes}, *kept[1:]] if notes else kept


def _dropped_by_rouge(rows: Sequence[Row]) -> list[str]:
    """What ROUGE's default tokenizer drops of targets and answers, if ROUGE is a metric of the task."""
    names = dict.fromkeys(name for row in rows for name in (*row, *row[VALUES]) if "rouge" in name.lower())
    dropped, of = dropped_letters([text for row in rows for text in _texts([row["target"], row["responses"]])])
    if not (names and dropped):
        return []
    return [
        f"{', '.join(names)}: ROUGE's default tokenizer drops {dropped} of {of} letters and digits of targets and "
        f"answers ({dropped / of:.2%}), all but a-z and 0-9; they count only if the task's own code splits texts "
        "otherwise"
    ]


def _texts(value: Any) -> Iterator[str]:
    """The texts in nested lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _named(documents: Sequence[int], of: int) -> str:
    more = ", ..." if len(documents) > _SHOWN else ""
    return f"{len(documents)} of {of} documents ({', '.join(map(str, documents[:_SHOWN]))}{more}) are"


def to_metrics(rows: Sequence[Row], config: TaskConfig, bootstrap_iters: int) -> list[Metric]:
    """Every metric with values in the rows, in the order first seen; then `unscored`, the number of unscored rows."""
    from lm_eval.api.metrics import mean

    aggregations, directions = _rules(config)
    metrics = []
    for name in dict.fromkeys(name for row in rows for name in (*row, *row[VALUES]) if name not in _NO_METRICS):
        values = [row[VALUES].get(name, row.get(name)) for row in rows if name in row or name in row[VALUES]]
        endings = (f".{each}" for each in config.filters if each != NO_FILTER)
        metric = name.removesuffix(next((ending for ending in endings if name.endswith(ending)), ""))
        aggregate: Aggregation = aggregations.get(metric, _only(aggregations) or mean)
        metrics.append(
            Metric(
                name,
                float(aggregate(values)),
                UNITS.get(metric, "1"),
                directions.get(metric, _only(directions)),
                standard_error(metric, aggregate, values, bootstrap_iters),
                len(values),
            )
        )
    if count := sum(UNSCORED in row for row in rows):
        metrics.append(Metric(UNSCORED, float(count), "documents", None, None, len(rows)))
    return metrics


def standard_error(metric: str, aggregate: Aggregation, values: Sequence[Any], bootstrap_iters: int) -> float | None:
    """lm-eval's standard error of a metric; for ratios of sums, for which it has none, ours; None if unknown.

    Documents of size 0, such as those without text, are not resampled: a resample of them alone would have no ratio.

    Args:
        metric: Its name.
        aggregate: Computes it from the values of documents.
        values: One per document.
        bootstrap_iters: Resamples if there is no closed form.
    """
    from lm_eval.api.metrics import bits_per_byte, stderr_for_metric, weighted_perplexity

    from ...results.stats.statistics import ratio_bootstrap

    if len(values) < 2:
        return None
    if aggregate in (weighted_perplexity, bits_per_byte):
        statistic: RatioStatistic = "exp_ratio" if aggregate is weighted_perplexity else "bits_ratio"
        sized = [(-nats, size) for nats, size in values if size]
        return ratio_bootstrap([nats for nats, _ in sized], [size for _, size in sized], statistic)
    estimate = stderr_for_metric(aggregate, min(bootstrap_iters, 100) if metric in _FEW_DRAWS else bootstrap_iters)
    if estimate is None:
        return None
    os.environ.setdefault("DISABLE_MULTIPROC", "1")  # a pool of forks below a process that has threads may hang
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        error = float(estimate(values))
    return error if math.isfinite(error) else None


def _rules(config: TaskConfig) -> tuple[dict[str, Any], dict[str, bool | None]]:
    """A task's aggregation of each metric, and whether higher is better, read without its data."""
    from lm_eval.api.registry import get_aggregation, higher_is_better_registry, metric_agg_registry

    aggregations: dict[str, Any] = {}
    directions: dict[str, Any] = {}
    if config.is_class:
        task = config.instance()
        aggregations, directions = dict(task.aggregation()), dict(task.higher_is_better())
    for entry in config.loaded().get("metric_list") or [{"metric": name} for name in config.default_metrics()]:
        metric = entry["metric"]
        name = metric.__name__ if callable(metric) else metric
        aggregation = entry.get("aggregation") or metric_agg_registry.get(name)
        aggregations[name] = get_aggregation(aggregation) if isinstance(aggregation, str) else aggregation
        directions[name] = entry.get("higher_is_better", higher_is_better_registry.get(name, None))
    return aggregations, directions


def _only(rules: Mapping[str, Any]) -> Any:
    """The rule of a task's only metric, which holds for every name that the metric returns; else None."""
    return next(iter(rules.values())) if len(rules) == 1 else None


def _plain(value: Any) -> Any:
    """A value as JSON keeps it; numpy's numbers and arrays as Python's, and other objects as text."""
    return json.loads(json.dumps(value, default=lambda other: getattr(other, "tolist", other.__str__)()))

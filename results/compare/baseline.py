"""Baselines: a run as one small file, to commit and to review, with its metrics, data and predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from textwrap import TextWrapper
from typing import Any

from ..atomic import replacing
from ..names import UsageError
from ..record import Record, to_json
from ..stats.scores import Rows, sample_scores
from ..store import DONE_STATUSES
from .snapshot import BASELINE_FORMAT, BASELINE_VERSION, Baseline, BaselineCell, Snapshot

MAX_SAMPLES = 2_000
"""A cell with more predictions is kept without them, and compared by its seeds or by a tolerance."""
ENVIRONMENT = (
    *("hedgebench", "git_commit", "git_commit_date"),
    *("device", "dtype", "threads", "cpu", "gpu", "torch", "transformers"),
)
_WIDTH = 120
_DIGITS, _TIMING_DIGITS, _TIMINGS = 9, 4, 50


def write_baseline(snapshot: Snapshot, path: Path) -> list[str]:
    """Writes the baseline of a run.

    Numbers are kept to nine digits, and up to fifty raw timings of each metric to four. Learning curves, logs, times of
    phases and fields with their default values are left out.

    Returns:
        A message for each cell that is left out, or kept without its predictions.

    Raises:
        UsageError: The run has no cell with a result.
    """
    messages: list[str] = []
    cells = []
    for record in snapshot.records:
        cell = f"{record.model} / {record.task} / seed {record.seed}"
        if record.status not in DONE_STATUSES:
            messages.append(f"left out, {record.status}: {cell}")
            continue
        rows = snapshot.samples.get(record.cell_id, ())
        columns = _columns(record, rows)
        if rows and not columns:
            messages.append(f"without predictions: {cell}, {len(rows)} rows")
        cells.append(BaselineCell(_without_defaults(_rounded(to_json(_trimmed(record)))), _rounded(columns)))
    if not cells:
        raise UsageError(f"{snapshot.name} has no cell with a result, so there is nothing to compare with later")
    baseline = Baseline(BASELINE_FORMAT, BASELINE_VERSION, Path(snapshot.name).name, tuple(cells))
    with replacing(path) as file:
        file.write(f"{_pretty(asdict(baseline))}\n".encode())
    return messages


def _trimmed(record: Record) -> Record:
    environment = {key: record.environment[key] for key in ENVIRONMENT if key in record.environment}
    metrics = tuple(replace(metric, samples=_thinned(metric.samples)) for metric in record.metrics)
    return replace(record, metrics=metrics, curves=(), timings_s={}, environment=environment)


def _thinned(samples: tuple[float, ...]) -> tuple[float, ...]:
    """At most `_TIMINGS` timings, taken evenly over the measurement, and rounded."""
    step = max(1, -(-len(samples) // _TIMINGS))
    return tuple(float(f"{value:.{_TIMING_DIGITS}g}") for value in samples[::step])


_DEFAULTS: Mapping[str, Any] = {"samples": [], "curves": [], "notes": [], "limit": None, "error": None}
_METRIC_DEFAULTS: Mapping[str, Any] = {"at": {}, "samples": [], "status": "ok"}


def _without_defaults(record: dict[str, Any]) -> dict[str, Any]:
    metrics = [_differing(metric, _METRIC_DEFAULTS) for metric in record["metrics"]]
    return {**_differing(record, _DEFAULTS), "metrics": metrics}


def _differing(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in defaults or value != defaults[key]}


_SCORED = {"split", "row", "document", "id", "label", "answer", "prediction", "correct"}
_SUMS = {"nll_nats", "tokens", "words", "bytes"}


def _columns(record: Record, rows: Rows) -> dict[str, tuple[Any, ...]]:
    """The columns that metrics are computed from; empty if no metric is computed from rows or there are too many."""
    if not rows or len(rows) > MAX_SAMPLES or not any(sample_scores(metric, rows) for metric in record.metrics):
        return {}
    needed = _SCORED | _SUMS | {metric.name for metric in record.metrics}
    kept = [key for key, value in rows[0].items() if isinstance(value, int | float | str) and key in needed]
    return {key: tuple(row.get(key) for row in rows) for key in kept}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def _pretty(value: Any, indent: int = 0) -> str:
    """JSON with each value on one line if it fits, so that a changed number changes one line."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + indent <= _WIDTH or not isinstance(value, dict | list | tuple):
        return flat
    pad, end = " " * (indent + 1), "\n" + " " * indent
    if isinstance(value, dict):
        lines = [f"{pad}{json.dumps(key)}: {_pretty(item, indent + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + end + "}"
    if any(isinstance(item, dict | list) for item in value):
        return "[\n" + ",\n".join(pad + _pretty(item, indent + 1) for item in value) + end + "]"
    return "[\n" + _wrapped(value, pad) + end + "]"


def _wrapped(values: Sequence[Any], pad: str) -> str:
    """Scalars with commas between them, in lines of less than `_WIDTH` characters that break between scalars only."""
    items = (json.dumps(value, ensure_ascii=False).replace(" ", "\0") for value in values)
    wrapper = TextWrapper(_WIDTH - 1, pad, pad, break_long_words=False, break_on_hyphens=False)
    return wrapper.fill(", ".join(items) + ",").replace("\0", " ").removesuffix(",")

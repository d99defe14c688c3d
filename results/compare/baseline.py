"""A run as one small file that is committed and read in review: metrics, what they rest on, predictions in columns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..record import Record, to_json
from ..stats.scores import sample_scores
from .snapshot import BASELINE_FORMAT, BASELINE_VERSION, Rows, Snapshot

MAX_SAMPLES = 2_000
"""A cell with more samples is kept by its metrics alone, and compared by seeds or tolerance."""
ENVIRONMENT = ("hedgebench", "git_commit", "device", "dtype", "threads", "cpu", "gpu", "torch", "transformers")
_WIDTH = 120
_DIGITS, _TIMING_DIGITS, _TIMINGS = 9, 4, 50


def write_baseline(snapshot: Snapshot, path: Path) -> list[str]:
    """Writes the baseline of a run; gives what is not in it, and why.

    Numbers are kept to nine digits, and up to fifty raw timings of each metric to four. Learning curves, logs, times of
    phases and values that are a record's defaults are left out.

    Raises:
        ValueError: The run has no cell with a result.
    """
    told: list[str] = []
    cells = []
    for record in snapshot.records:
        if record.status not in ("ok", "oom", "unsupported"):
            told.append(f"left out, {record.status}: {record.model} / {record.task} / seed {record.seed}")
            continue
        rows = snapshot.samples.get(record.cell_id, ())
        columns = _columns(record, rows)
        if rows and not columns:
            told.append(f"without predictions: {record.model} / {record.task} / seed {record.seed}, {len(rows)} rows")
        cells.append({"record": _without_defaults(_rounded(to_json(_trimmed(record)))), "samples": _rounded(columns)})
    if not cells:
        raise ValueError(f"{snapshot.name} has no cell with a result, so there is nothing to compare with later")
    baseline = {"format": BASELINE_FORMAT, "version": BASELINE_VERSION, "run": Path(snapshot.name).name, "cells": cells}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_pretty(baseline) + "\n", encoding="utf-8")
    return told


def _trimmed(record: Record) -> Record:
    environment = {key: record.environment[key] for key in ENVIRONMENT if key in record.environment}
    metrics = tuple(replace(metric, samples=_thinned(metric.samples)) for metric in record.metrics)
    return replace(record, metrics=metrics, curves=(), timings_s={}, environment=environment)


def _thinned(samples: tuple[float, ...]) -> tuple[float, ...]:
    """At most so many, taken evenly over the measurement, and rounded."""
    step = max(1, -(-len(samples) // _TIMINGS))
    return tuple(float(f"{value:.{_TIMING_DIGITS}g}") for value in samples[::step])


_DEFAULTS: Mapping[str, Any] = {"at": {}, "samples": [], "curves": [], "notes": [], "limit": None, "error": None}


def _without_defaults(record: dict[str, Any]) -> dict[str, Any]:
    metrics = [
        {key: v for key, v in m.items() if (key, v) not in (("at", {}), ("samples", []), ("status", "ok"))}
        for m in record["metrics"]
    ]
    kept = {key: value for key, value in record.items() if key not in _DEFAULTS or value != _DEFAULTS[key]}
    return {**kept, "metrics": metrics}


def _columns(record: Record, rows: Rows) -> dict[str, list[Any]]:
    """The columns that the record's metrics are computed from; none where there are too many rows, or no need."""
    if not rows or len(rows) > MAX_SAMPLES or not any(sample_scores(metric, rows) for metric in record.metrics):
        return {}
    kept = [key for key, value in rows[0].items() if isinstance(value, int | float | str) and _needed(key, record)]
    return {key: [row.get(key) for row in rows] for key in kept}


_SCORED = {"split", "row", "document", "id", "label", "answer", "prediction", "correct"}
_SUMS = {"nll_nats", "tokens", "words", "bytes"}


def _needed(key: str, record: Record) -> bool:
    return key in _SCORED | _SUMS or key in {metric.name for metric in record.metrics}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def _pretty(value: Any, indent: int = 0) -> str:
    """JSON in which what fits on a line is on one, so that a change of one number is a change of one line."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + indent <= _WIDTH or not isinstance(value, dict | list):
        return flat
    pad = " " * (indent + 1)
    if isinstance(value, dict):
        lines = [f"{pad}{json.dumps(key)}: {_pretty(item, indent + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + "\n" + " " * indent + "}"
    if all(not isinstance(item, dict | list) for item in value):
        return "[\n" + _wrapped(value, pad) + "\n" + " " * indent + "]"
    return "[\n" + ",\n".join(pad + _pretty(item, indent + 1) for item in value) + "\n" + " " * indent + "]"


def _wrapped(values: list[Any], pad: str) -> str:
    lines, line = [], pad
    for item in (json.dumps(value, ensure_ascii=False) for value in values):
        if len(line) + len(item) + 2 > _WIDTH and line != pad:
            lines.append(line.rstrip())
            line = pad
        line += f"{item}, "
    return "\n".join([*lines, line.rstrip().removesuffix(",")])

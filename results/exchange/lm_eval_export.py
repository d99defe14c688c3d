"""Runs as results files of lm-eval, in its folders and under its keys, for leaderboards that read those.

The layout is that of `EvaluationTracker` in lm-eval 0.4.13: one file for each model, with `metric,filter` and
`metric_stderr,filter` below each task. What lm-eval has no place for, which is time, memory and the points of sweeps,
is left out.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ..compare.matching import QUALITY_UNITS
from ..record import Record, Scalar
from ..tables.aggregate import Row, SeedGroup, group_seeds, leaderboard_rows

METRIC_NAMES: Mapping[str, str] = {"accuracy": "acc", "matthews": "mcc"}
"""Metrics that lm-eval has under another name; every other keeps its own."""
PREFIX = "lm_eval/"
"""What our names of lm-eval's own tasks begin with; their metrics end with `.FILTER` where there is a filter."""


def write_lm_eval(records: Iterable[Record], folder: Path) -> None:
    """Writes `FOLDER/MODEL/results_DATE.json` for each model of `lm_eval_results`."""
    now = datetime.now().isoformat().replace(":", "-")
    for results in lm_eval_results(records).values():
        target = folder / results["model_name_sanitized"] / f"results_{now}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(results, ensure_ascii=False, allow_nan=False, indent=2)
        target.write_text(text + "\n", encoding="utf-8")


def lm_eval_results(records: Iterable[Record]) -> dict[str, dict[str, Any]]:
    """The content of each model's file, by the model's name.

    The name says backbone, recipe and scale too: numbers of different ones are never one model's. Values are means over
    seeds, as in the leaderboard.
    """
    models: dict[str, list[tuple[SeedGroup, list[Row]]]] = defaultdict(list)
    for cells in group_seeds(records):
        if rows := [row for row in leaderboard_rows(cells.records) if _has_place(row)]:
            models[_model_name(cells)].append((cells, rows))
    return {name: _results(name, tasks) for name, tasks in models.items()}


def _has_place(row: Row) -> bool:
    finite = row.value is not None and math.isfinite(row.value)
    return finite and not row.at and row.higher_is_better is not None and row.unit in QUALITY_UNITS


def _model_name(cells: SeedGroup) -> str:
    where = cells.comparison
    limit = "" if where.limit is None else f"-limit{where.limit}"
    variant = f"-variant{cells.variant}" if cells.variant else ""
    return f"{cells.model}@{where.backbone}-{where.recipe}-{where.scale}{limit}{variant}"


def _results(name: str, tasks: Sequence[tuple[SeedGroup, list[Row]]]) -> dict[str, Any]:
    by_task = {cells.comparison.task.removeprefix(PREFIX): (cells.records[0], rows) for cells, rows in tasks}
    first, environment = tasks[0][0].records[0], tasks[0][0].records[0].environment
    return {
        "results": {task: _values(task, rows) for task, (_, rows) in by_task.items()},
        "group_subtasks": {task: [] for task in by_task},
        "configs": {task: _config(task, record, rows) for task, (record, rows) in by_task.items()},
        "versions": {task: _version(record) for task, (record, _) in by_task.items()},
        "n-shot": {task: _shots(record) for task, (record, _) in by_task.items()},
        "higher_is_better": {
            task: {_metric(row)[0]: row.higher_is_better for row in rows} for task, (_, rows) in by_task.items()
        },
        "n-samples": {task: _samples(record, rows) for task, (record, rows) in by_task.items()},
        "config": {
            "model": "hedgebench",
            "model_args": {key: getattr(first, key) for key in ("model", "backbone", "recipe", "scale")},
            "model_dtype": environment.get("dtype"),
            "device": environment.get("device"),
            "batch_size": None,
            "limit": first.limit,
            "seeds": sorted({record.seed for cells, _ in tasks for record in cells.records}),
        },
        "git_hash": environment.get("git_commit"),
        "date": time.time(),
        "transformers_version": environment.get("transformers"),
        "lm_eval_version": environment.get("lm-eval"),
        "task_hashes": {},
        "model_source": "hedgebench",
        "model_name": name,
        "model_name_sanitized": re.sub(r'["<>:/|\\?*\[\]]+', "__", name),
    }


def _values(task: str, rows: Sequence[Row]) -> dict[str, Any]:
    values: dict[str, Any] = {"name": task, "alias": task, "sample_len": max(row.n for row in rows)}
    for row in rows:
        name, filtered = _metric(row)
        known = row.stderr is not None and math.isfinite(row.stderr)
        values[f"{name},{filtered}"] = row.value
        values[f"{name}_stderr,{filtered}"] = row.stderr if known else "N/A"
    return values


def _config(task: str, record: Record, rows: Sequence[Row]) -> dict[str, Any]:
    data = record.data
    better = {_metric(row)[0]: row.higher_is_better for row in rows}
    return {
        "task": task,
        "dataset_path": data.id if data else None,
        "metric_list": [{"metric": name, "higher_is_better": higher} for name, higher in better.items()],
        "num_fewshot": _shots(record),
        "metadata": {
            "version": _version(record),
            "data_fingerprint": data.fingerprint if data else None,
            "settings": {key: value for key, value in record.settings.items() if key.startswith("task.")},
        },
    }


def _samples(record: Record, rows: Sequence[Row]) -> dict[str, int]:
    """Rows scored, and how many there would have been without `--limit`."""
    scored = max(row.n for row in rows)
    splits = record.data.splits if record.data and record.limit is not None else {}
    return {"original": max(scored, splits.get("test", splits.get("validation", 0))), "effective": scored}


def _version(record: Record) -> Scalar:
    """The version of lm-eval's own task, or the release of ours."""
    own = record.data.details.get("task_version") if record.data else None
    return record.environment.get("hedgebench") if own is None else own


def _shots(record: Record) -> int:
    shots = record.data.details.get("num_fewshot") if record.data else None
    return shots if isinstance(shots, int) else 0


def _metric(row: Row) -> tuple[str, str]:
    """lm-eval's name of a metric and of its filter."""
    if not row.comparison.task.startswith(PREFIX):
        return METRIC_NAMES.get(row.metric, row.metric), "none"
    name, _, filtered = row.metric.partition(".")
    return name, filtered or "none"

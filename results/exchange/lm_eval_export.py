"""Runs as results files of lm-eval, in its folders and under its keys, for leaderboards that read such files.

The layout is that of `EvaluationTracker` in lm-eval 0.4.13: one file for each model, with `metric,filter` and
`metric_stderr,filter` below each task. Time, memory, the points of sweeps and metrics without a direction are left out,
as lm-eval has no place for them.
"""

from __future__ import annotations

import math
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ..foreign import format_json
from ..record import Record
from ..stats.changes import QUALITY_UNITS
from ..tables.aggregate import SeedGroup, group_seeds, leaderboard_rows
from ..tables.row import Row

METRIC_NAMES: Mapping[str, str] = {"accuracy": "acc", "matthews": "mcc"}
"""lm-eval's names of metrics, where they differ from ours."""
PREFIX = "lm_eval/"
"""Prefix of our names of lm-eval's own tasks; their metrics end with `.FILTER` if there is a filter."""


def write_lm_eval(records: Iterable[Record], folder: Path) -> None:
    """Writes `FOLDER/MODEL/results_DATE.json` for each model of `lm_eval_results`."""
    now = datetime.now().isoformat().replace(":", "-")
    for results in lm_eval_results(records).values():
        target = folder / results["model_name_sanitized"] / f"results_{now}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(format_json(results, indent=2) + "\n", encoding="utf-8")


def lm_eval_results(records: Iterable[Record]) -> dict[str, dict[str, Any]]:
    """The content of each model's file, by the model's name.

    A name includes backbone, recipe and scale, so that numbers of different ones are never given to one model. Values
    are means over seeds, as in the leaderboard.
    """
    models: dict[str, list[tuple[SeedGroup, list[Row]]]] = defaultdict(list)
    for cells in group_seeds(records):
        if rows := [row for row in leaderboard_rows(cells.records) if _has_place(row)]:
            models[_model_name(cells)].append((cells, rows))
    return {name: _results(name, tasks) for name, tasks in models.items()}


def _has_place(row: Row) -> bool:
    is_finite = row.value is not None and math.isfinite(row.value)
    return is_finite and not row.at and row.higher_is_better is not None and row.unit in QUALITY_UNITS


def _model_name(cells: SeedGroup) -> str:
    where = cells.comparison
    limit = "" if where.limit is None else f"-limit{where.limit}"
    variant = f"-variant{cells.variant}" if cells.variant else ""
    return f"{cells.model}@{where.backbone}-{where.recipe}-{where.scale}{limit}{variant}"


def _results(name: str, tasks: Sequence[tuple[SeedGroup, list[Row]]]) -> dict[str, Any]:
    """A model's file: sections by task, then what holds for the whole run."""
    sections: dict[str, dict[str, Any]] = defaultdict(dict)
    for cells, rows in tasks:
        task = cells.comparison.task.removeprefix(PREFIX)
        for section, content in _sections(task, cells.records[0], rows).items():
            sections[section][task] = content
    first, environment = tasks[0][0].records[0], tasks[0][0].records[0].environment
    return {
        **sections,
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


def _sections(task: str, record: Record, rows: Sequence[Row]) -> dict[str, Any]:
    """One task's part of each section."""
    data, scored = record.data, max(row.n for row in rows)
    details, splits = (data.details, data.splits) if data else ({}, {})
    version = details.get("task_version")
    if version is None:  # a task of ours: its version is our release
        version = record.environment.get("hedgebench")
    shots = details.get("num_fewshot")
    shots = shots if isinstance(shots, int) else 0
    without_limit = scored if record.limit is None else splits.get("test", splits.get("validation", 0))
    values: dict[str, Any] = {"name": task, "alias": task, "sample_len": scored}
    better = {}
    for row in rows:
        name, filtered = _metric(row)
        has_error = row.stderr is not None and math.isfinite(row.stderr)
        values[f"{name},{filtered}"] = row.value
        values[f"{name}_stderr,{filtered}"] = row.stderr if has_error else "N/A"
        better[name] = row.higher_is_better
    settings = {key: value for key, value in record.settings.items() if key.startswith("task.")}
    return {
        "results": values,
        "group_subtasks": [],
        "configs": {
            "task": task,
            "dataset_path": data.id if data else None,
            "metric_list": [{"metric": name, "higher_is_better": higher} for name, higher in better.items()],
            "num_fewshot": shots,
            "metadata": {"version": version, "data_fingerprint": data and data.fingerprint, "settings": settings},
        },
        "versions": version,
        "n-shot": shots,
        "higher_is_better": better,
        "n-samples": {"original": max(scored, without_limit), "effective": scored},
    }


def _metric(row: Row) -> tuple[str, str]:
    """lm-eval's name of a metric and of its filter."""
    if not row.comparison.task.startswith(PREFIX):
        return METRIC_NAMES.get(row.metric, row.metric), "none"
    name, _, filtered = row.metric.partition(".")
    return name, filtered or "none"

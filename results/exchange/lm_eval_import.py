"""Records of what lm-eval measured, out of its results files.

One record for each task. Their recipe is `lm-eval` and their scale `imported`, so that nothing compares them with
cells of our own protocol. Groups, which are averages of their tasks, are left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ..record import SCHEMA_VERSION, DataIdentity, InvalidRecordError, Metric, Record, Scalar
from .lm_eval_export import PREFIX

_UNITS = {"bits_per_byte": "bits/byte"}
_NEEDED = ("results", "configs", "config")
_NOT_METRICS = frozenset({"name", "alias", "sample_len", "samples", "sample_count"})


def is_lm_eval(data: Any) -> bool:
    """Whether a file's JSON looks like lm-eval's results."""
    return isinstance(data, Mapping) and all(isinstance(data.get(key), Mapping) for key in _NEEDED)


def lm_eval_records(data: Mapping[str, Any], run_id: str, source: str) -> list[Record]:
    """A record for each task of a results file.

    Args:
        data: The file's JSON.
        run_id: Name of the run that the records become.
        source: Name of the file, for the records' notes.

    Raises:
        InvalidRecordError: The file has no task with a metric, or a value is no number.
    """
    groups = {name for name, members in data.get("group_subtasks", {}).items() if members}
    records = [_record(data, task, run_id, source) for task in data["results"] if task not in groups]
    if not records:
        raise InvalidRecordError("it has no results of a task")
    return records


def _record(data: Mapping[str, Any], task: str, run_id: str, source: str) -> Record:
    config, task_config = data["config"], data["configs"].get(task, {})
    metrics = _metrics(data, task)
    if not metrics:
        raise InvalidRecordError(f"task {task} has no metric")
    seed, limit = config.get("random_seed"), config.get("limit")
    protocol = [task, data.get("versions", {}).get(task), data.get("n-shot", {}).get(task), limit, task_config]
    return Record(
        schema_version=SCHEMA_VERSION,
        run_id=run_id,
        cell_id=_hash([data.get("model_name"), config, data.get("date"), protocol, data["results"][task]]),
        model=str(data.get("model_name") or config.get("model")),
        backbone=str(config.get("model")),
        task=f"{PREFIX}{task}",
        recipe="lm-eval",
        scale="imported",
        seed=seed if isinstance(seed, int) else 0,
        status="ok",
        main_metric=next((m.name for m in metrics if m.higher_is_better is not None), metrics[0].name),
        metrics=metrics,
        settings=_settings(data, task),
        timings_s={},
        kernels=(),
        data=_data(data, task, task_config),
        environment=_environment(data),
        limit=limit if isinstance(limit, int) else None,
        peer_key=_hash(protocol),
        notes=(f"imported from {source}: measured by lm-eval, kernels and data are as its file says",),
    )


def _metrics(data: Mapping[str, Any], task: str) -> tuple[Metric, ...]:
    values = data["results"][task]
    better = data.get("higher_is_better", {}).get(task, {})
    n = data.get("n-samples", {}).get(task, {}).get("effective", values.get("sample_len", 0))
    found = []
    for key, value in values.items():
        name, _, filtered = key.partition(",")
        if key in _NOT_METRICS or name.endswith("_stderr"):
            continue
        if not _is_number(value):
            raise InvalidRecordError(f"{key} of task {task} is {value!r}; expected a number")
        stderr = values.get(f"{name}_stderr,{filtered}")
        error = float(stderr) if _is_number(stderr) else None
        full = name if filtered in ("", "none") else f"{name}.{filtered}"
        found.append(Metric(full, float(value), _UNITS.get(name, "1"), better.get(name), error, int(n)))
    return tuple(found)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _settings(data: Mapping[str, Any], task: str) -> dict[str, Scalar | tuple[Scalar, ...]]:
    """The examples in the prompt, and lm-eval's own configuration where it is a plain value."""
    config = {f"lm_eval.{key}": value for key, value in data["config"].items() if isinstance(value, Scalar)}
    return {"task.num_fewshot": data.get("n-shot", {}).get(task), **config}


def _data(data: Mapping[str, Any], task: str, config: Mapping[str, Any]) -> DataIdentity:
    name = "/".join(str(config[key]) for key in ("dataset_path", "dataset_name") if config.get(key))
    revision = str((config.get("dataset_kwargs") or {}).get("revision", ""))
    split = str(config.get("test_split") or config.get("validation_split") or "test")
    rows = data.get("n-samples", {}).get(task, {}).get("original")
    splits = {split: int(rows)} if rows is not None else {}
    versions = {"task_version": data.get("versions", {}).get(task), "num_fewshot": data.get("n-shot", {}).get(task)}
    fingerprint = data.get("task_hashes", {}).get(task, "")
    return DataIdentity(name or task, revision, fingerprint, "imported", splits, versions)


def _environment(data: Mapping[str, Any]) -> dict[str, Scalar]:
    return {
        "lm-eval": data.get("lm_eval_version"),
        "transformers": data.get("transformers_version"),
        "git_commit": data.get("git_hash"),
        "device": data["config"].get("device"),
        "dtype": data["config"].get("model_dtype"),
    }


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]

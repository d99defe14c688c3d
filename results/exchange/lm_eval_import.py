"""Records from results files of lm-eval.

Each task becomes one record, with the recipe `lm-eval` and the scale `imported`, so that it is never compared with
cells of our own protocol. Groups, which are averages of their tasks, are left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeGuard

from ..foreign import ForeignJsonError, convert
from ..record import SCHEMA_VERSION, DataIdentity, Metric, Record, Scalar
from ..stats.scores import NOT_PAIRED
from .lm_eval_export import PREFIX

_UNITS = {"bits_per_byte": "bits/byte"}
_NEEDED = ("results", "configs", "config")
_STATED = ("tokenizer_source", "prefix_token")
"""What `bench lm-eval` writes of the tokenizer into lm-eval's configuration, and other models do not."""

_NOT_METRICS = frozenset({"name", "alias", "sample_len", "samples", "sample_count"})


@dataclass(frozen=True)
class LmEvalResults:
    """The parts of a results file that records are made from, under lm-eval's names, with `_` for `-`.

    Mappings are keyed by task; `config` is that of the whole run.
    """

    results: Mapping[str, Mapping[str, Any]]
    configs: Mapping[str, Mapping[str, Any]]
    config: Mapping[str, Any]
    group_subtasks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    versions: Mapping[str, Scalar] = field(default_factory=dict)
    n_shot: Mapping[str, Scalar] = field(default_factory=dict)
    n_samples: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    higher_is_better: Mapping[str, Mapping[str, bool | None]] = field(default_factory=dict)
    task_hashes: Mapping[str, str] = field(default_factory=dict)
    model_name: str | None = None
    date: Any = None
    lm_eval_version: str | None = None
    transformers_version: str | None = None
    git_hash: str | None = None


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
        ForeignJsonError: No task has a metric, or a part of the file has another type than lm-eval gives it.
    """
    known, parts = {f.name for f in fields(LmEvalResults)}, {key.replace("-", "_"): data[key] for key in data}
    file = convert({key: value for key, value in parts.items() if key in known}, LmEvalResults, "lm-eval's file")
    records = [_record(file, task, run_id, source) for task in file.results if not file.group_subtasks.get(task)]
    if not records:
        raise ForeignJsonError("it has no results of a task")
    return records


def _record(file: LmEvalResults, task: str, run_id: str, source: str) -> Record:
    config, task_config = file.config, file.configs.get(task, {})
    metrics = _metrics(file, task)
    if not metrics:
        raise ForeignJsonError(f"task {task} has no metric")
    seed, limit = config.get("random_seed"), _limit(file, task)
    protocol = [task, file.versions.get(task), file.n_shot.get(task), config.get("limit"), _of_protocol(file, task)]
    # The examples in the prompt, and lm-eval's own configuration as far as its values are scalars.
    settings = {"task.num_fewshot": file.n_shot.get(task)}
    settings |= {f"lm_eval.{key}": value for key, value in config.items() if isinstance(value, Scalar)}
    return Record(
        schema_version=SCHEMA_VERSION,
        run_id=run_id,
        cell_id=_hash([file.model_name, config, file.date, protocol, file.results[task]]),
        model=str(file.model_name or config.get("model")),
        backbone=str(config.get("model")),
        task=f"{PREFIX}{task}",
        recipe="lm-eval",
        scale="imported",
        seed=seed if isinstance(seed, int) else 0,
        status="ok",
        main_metric=next((m.name for m in metrics if m.higher_is_better is not None), metrics[0].name),
        metrics=metrics,
        settings=settings,
        timings_s={},
        kernels=(),
        data=_data(file, task, task_config),
        environment={
            "lm-eval": file.lm_eval_version,
            "transformers": file.transformers_version,
            "git_commit": file.git_hash,
            "device": config.get("device"),
            "dtype": config.get("model_dtype"),
        },
        limit=limit,
        peer_key=_hash(protocol),
        notes=(f"imported from {source}: measured by lm-eval, kernels and data are as its file says",),
    )


def _of_protocol(file: LmEvalResults, task: str) -> dict[str, Any]:
    """A task's configuration without what lm-eval adds of the model and the machine to its metadata.

    From 0.4.9 on the metadata holds the model's arguments, and the path of the task's file.
    """
    task_config, arguments = dict(file.configs.get(task, {})), file.config.get("model_args")
    if isinstance(metadata := task_config.get("metadata"), Mapping):
        parts = arguments.split(",") if isinstance(arguments, str) else arguments
        names = (str(part).partition("=")[0].strip() for part in (parts if isinstance(parts, list | Mapping) else ()))
        left_out = {"config_source", *names}
        task_config["metadata"] = {key: value for key, value in metadata.items() if key not in left_out}
    return task_config


def _limit(file: LmEvalResults, task: str) -> int | None:
    """How many rows lm-eval was limited to, by `--limit N`, a share of the rows, or a choice of them; None for all."""
    limit, counted = file.config.get("limit"), file.n_samples.get(task, {})
    if _is_number(limit) and limit >= 1:
        return int(limit)
    scored = counted.get("effective")
    return scored if scored != counted.get("original") else None


def _metrics(file: LmEvalResults, task: str) -> tuple[Metric, ...]:
    values, better = file.results[task], file.higher_is_better.get(task, {})
    n = file.n_samples.get(task, {}).get("effective", values.get("sample_len", 0))
    if not isinstance(n, int):
        raise ForeignJsonError(f"sample_len of task {task} is {n!r}; expected a whole number")
    found = []
    for key, value in values.items():
        name, _, filtered = key.partition(",")
        if key in _NOT_METRICS or name.endswith("_stderr"):
            continue
        if not _is_number(value):
            raise ForeignJsonError(f"{key} of task {task} is {value!r}; expected a number")
        stderr = values.get(f"{name}_stderr,{filtered}")
        error = float(stderr) if _is_number(stderr) else None
        full = name if filtered in ("", "none") else f"{name}.{filtered}"
        found.append(Metric(full, float(value), _UNITS.get(name, "1"), better.get(name), error, n))
    return tuple(found)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _data(file: LmEvalResults, task: str, config: Mapping[str, Any]) -> DataIdentity:
    rows = file.n_samples.get(task, {}).get("original")
    options = config.get("dataset_kwargs")
    split = str(config.get("test_split") or config.get("validation_split") or "test")
    return DataIdentity(
        id="/".join(str(config[key]) for key in ("dataset_path", "dataset_name") if config.get(key)) or task,
        revision=str(options.get("revision", "")) if isinstance(options, Mapping) else "",
        fingerprint=file.task_hashes.get(task, ""),
        source="imported",
        splits={} if rows is None else {split: rows},
        details={
            "task_version": file.versions.get(task),
            "num_fewshot": file.n_shot.get(task),
            **{name: file.config.get(name) or "not stated" for name in _STATED},
            "label_mapping": "none",
            **NOT_PAIRED,
        },
    )


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]

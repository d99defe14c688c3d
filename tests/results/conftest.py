"""Records to test with: a factory, and a small run that shows every situation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import pytest

from hedgebench.results.record import (
    SCHEMA_VERSION,
    CurvePoint,
    DataIdentity,
    Failure,
    KernelUse,
    Metric,
    Record,
    Scalar,
    Status,
)

MakeMetric: TypeAlias = Callable[..., Metric]
MakeRecord: TypeAlias = Callable[..., Record]


def _metric(
    name: str = "perplexity",
    value: float | None = 20.0,
    unit: str = "1",
    higher_is_better: bool | None = False,
    stderr: float | None = 0.25,
    n: int = 100,
    at: dict[str, Scalar] | None = None,
    status: Status = "ok",
) -> Metric:
    return Metric(name, value, unit, higher_is_better, stderr, n, at or {}, status)


def _record(model: str = "softmax", task: str = "wikitext2", seed: int = 0, **changes: Any) -> Record:
    metrics = changes.pop("metrics", (_metric(),))
    record = Record(
        schema_version=SCHEMA_VERSION,
        run_id="run",
        cell_id=f"{abs(hash((model, task, seed, repr(sorted(changes.items(), key=str))))):016x}",
        model=model,
        backbone="gpt",
        task=task,
        recipe="scratch",
        scale="smoke",
        seed=seed,
        status="ok",
        main_metric=metrics[0].name if metrics else "perplexity",
        metrics=metrics,
        settings={"train.lr": 0.01, "train.betas": (0.9, 0.999)},
        timings_s={"train": 1.5},
        kernels=(KernelUse("evaluate", "chunk", "torch"),),
        data=DataIdentity("wikitext", "abc123", "f00d", "mirror", {"test": 100}),
        environment={"torch": "2.13.0", "threads": 2},
    )
    return replace(record, **changes)


def _trained(model: str, steps: float, seconds: float, size: float, **changes: Any) -> Record:
    """A record of a training with 100 tokens in a step."""
    metrics = (
        _metric("accuracy", 0.9, "1", True, 0.01),
        _metric("train_steps", steps, "1", None, None, 1),
        _metric("train_tokens", 100 * steps, "1", None, None, 1),
        _metric("train_trained_parameters", 5_000.0, "1", None, None, 1),
        _metric("parameters", 6_000.0, "1", None, None, 1),
        _metric("state_bytes", size, "bytes", None, None, 1),
    )
    given: dict[str, Any] = {"metrics": metrics, "settings": {"train.steps": 300}, "timings_s": {"train": seconds}}
    return _record(model, **(given | changes))


def _sweep(slope: float, power: float, oom_from: int) -> tuple[Metric, ...]:
    lengths = (512, 1024, 2048, 4096, 8192)
    pace = replace(_metric("pace_ms", 1.0, "ms", None, 0.0, 2, {"work": "compute"}), samples=(1.0, 1.0))
    points = (
        _metric("prefill_ms", None, "ms", False, None, 0, {"seq_len": n, "batch_size": 1}, "oom")
        if n >= oom_from
        else _metric(
            "prefill_ms", slope * n**power, "ms", False, 0.05 * slope * n**power, 10, {"seq_len": n, "batch_size": 1}
        )
        for n in lengths
    )
    return *points, pace


def _curves(level: float) -> tuple[CurvePoint, ...]:
    train = [CurvePoint(step, "train", "loss", level + 4 / (1 + step / 20)) for step in range(0, 201, 10)]
    return (
        *train,
        *(CurvePoint(step, "validation", "loss", level + 0.2 + 4 / (1 + step / 20)) for step in (50, 100, 200)),
    )


def _showcase() -> list[Record]:
    records = []
    models = {"softmax": 20.0, "hedgehog": 21.3, "elu": 27.9, "performer": 30.4, "taylor:feature_dim=16": 22.0}
    for i, (model, perplexity) in enumerate(models.items()):
        sizes = (
            _metric("parameters", 1e6 + 30_000 * i, "1", None, None, 1),
            _metric("state_bytes", 8_000.0 * 4**i, "bytes", None, None, 1),
        )
        records += [
            _record(
                model, seed=seed, metrics=(_metric(value=perplexity + 0.1 * seed), *sizes), curves=_curves(2 + i / 5)
            )
            for seed in range(3)
        ]
        accuracy = _metric("accuracy", 0.93 - 0.02 * i, "1", True, 0.01, 872)
        records.append(_record(model, "glue/sst2", metrics=(accuracy, *sizes)))
        if model != "performer":
            records.append(
                _record(
                    model, "glue/cola", metrics=(_metric("matthews", 0.58 - 0.05 * i, "1", True, 0.03, 1043), *sizes)
                )
            )
        records.append(
            _record(
                model, "throughput", metrics=_sweep(0.001, 1.6, 8192) if i == 0 else _sweep(0.05 + 0.02 * i, 1.0, 10**9)
            )
        )
    failure = Failure("OutOfMemoryError", "tried to allocate 20 GiB", "line 1\nline 2")
    records.append(_record("cosformer", metrics=(), main_metric="perplexity", status="oom", data=None, error=failure))
    return records


@pytest.fixture
def make_metric() -> MakeMetric:
    """Makes a metric; every field has a default."""
    return _metric


@pytest.fixture
def make_record() -> MakeRecord:
    """Makes a record; every field has a default."""
    return _record


@pytest.fixture
def make_trained() -> MakeRecord:
    """Makes a record that states its budget, from a model, steps, seconds and bytes of state."""
    return _trained


@pytest.fixture
def showcase() -> list[Record]:
    """Five models on four tasks, three seeds, a sweep with a point out of memory, a missing cell and a failed one."""
    return _showcase()

"""Each task of learning in context, from its data through a tiny trained model to its numbers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from hedgebench.adapters.backbone import BACKBONES
from hedgebench.adapters.precision import Precision
from hedgebench.adapters.scratch.build import build_scratch
from hedgebench.adapters.spec import parse_spec
from hedgebench.adapters.training.loop import train
from hedgebench.adapters.training.objective import objective_for
from hedgebench.adapters.training.settings import TrainSettings
from hedgebench.harness import registry
from hedgebench.harness.config import make_config
from hedgebench.harness.plan import make_plan
from hedgebench.harness.recipes import STAGE_DEFAULTS
from hedgebench.harness.suites import IN_CONTEXT
from hedgebench.tasks.base import INPUT, Sources, Task

FEW: dict[str, dict[str, Any]] = {"mqar": {"train_samples": (40, 40)}}
SIZE = {"layers": 1, "heads": 2, "kv_heads": 2, "width": 16, "mlp_width": 32}


def few(task: Task, scale: str) -> dict[str, Any]:
    """The settings of a scale with little data."""
    samples = {"train_samples": 40, "validation_samples": 10, "test_samples": 12}
    return {**task.info.scales[scale].settings, **samples, **FEW.get(task.info.name, {})}


def measured(task: Task, spec: str, sources: Sources) -> list[Any]:
    """Metrics of a tiny model that was trained for two steps."""
    settings = few(task, "smoke")
    data = task.load(settings, sources)
    assert data.train is not None
    precision = Precision.of("cpu", "float32")
    model = parse_spec(spec, registry.mechanisms().get)
    size = {**BACKBONES["gpt"].sizes["smoke"], **task.info.scales["smoke"].backbone, **SIZE}
    adapter = build_scratch(model, BACKBONES["gpt"], size, data.shape, 0, precision)
    stage = {**STAGE_DEFAULTS["train"]["smoke"], **task.info.scales["smoke"].train, "steps": 2, "batch_size": 8}
    objective = objective_for(data.shape)
    history = train(
        adapter.model,
        data.train,
        data.validation,
        TrainSettings.of(stage),
        seed=0,
        precision=precision,
        objective=objective,
    )
    assert np.isfinite(history.kept_loss)
    rows = json.loads(json.dumps(task.predict(adapter, data, settings)))
    assert all(INPUT in row for row in rows)
    return task.score([{k: v for k, v in row.items() if k != INPUT} for row in rows], settings)


@pytest.mark.parametrize("name", IN_CONTEXT)
@pytest.mark.parametrize("spec", ["softmax", "hedgehog"])
def test_a_tiny_model_gets_through_and_every_number_is_told_in_full(name: str, spec: str, sources: Sources) -> None:
    task = registry.tasks().get(name)
    metrics = measured(task, spec, sources)
    main = [metric for metric in metrics if metric.name == task.info.main_metric]
    assert len(main) == 1
    assert not main[0].at
    assert main[0].higher_is_better is not None
    assert main[0].n >= 12
    assert all(metric.value is not None and np.isfinite(metric.value) for metric in metrics)
    assert all(metric.stderr is not None for metric in metrics if metric.higher_is_better is not None)
    assert len({(metric.name, *dict(metric.at).items()) for metric in metrics}) == len(metrics)


@pytest.mark.parametrize("name", IN_CONTEXT)
@pytest.mark.parametrize("scale", ["smoke", "small", "paper"])
def test_every_scale_is_valid(name: str, scale: str, sources: Sources) -> None:
    task = registry.tasks().get(name)
    if name == "mqar":
        settings = {**few(task, scale), "train_samples": [40] * len(task.info.scales[scale].settings["train_pairs"])}  # type: ignore[arg-type]
    else:
        settings = few(task, scale)
    assert task.identify(settings, sources).source == "generated"
    TrainSettings.of({**STAGE_DEFAULTS["train"][scale], **task.info.scales[scale].train})


@pytest.mark.parametrize("name", ["icl_regression", "icl_boolean", "icl_parity"])
def test_a_backbone_that_reads_no_vectors_is_refused_in_the_plan(name: str) -> None:
    planned = make_plan(
        make_config({"models": ("softmax",), "tasks": (name,), "backbone": "encoder", "scale": "smoke"})
    )
    assert [(p.unsupported, p.problem.message if p.problem else "") for p in planned] == [
        (True, f"backbone encoder cannot do what {name} needs: vector_sequences")
    ]

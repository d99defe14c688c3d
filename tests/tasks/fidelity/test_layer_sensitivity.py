"""Layers swapped one by one: costs against softmax, their order, and the curve of layers that stay."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hedgebench.adapters.base import ModelShape, Settings, UnsupportedError
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.precision import Precision
from hedgebench.adapters.scratch.build import build_scratch
from hedgebench.adapters.scratch.transformer import Transformer
from hedgebench.adapters.spec import parse_spec
from hedgebench.harness import registry
from hedgebench.harness.weights.backbone_names import backbone_from_name
from hedgebench.results.record import DataIdentity, Metric
from hedgebench.tasks.base import Row, Sources, TaskData
from hedgebench.tasks.data.documents import Document
from hedgebench.tasks.fidelity.layer_sensitivity import LAYER_SENSITIVITY, SWAPPED
from hedgebench.tasks.language.perplexity import Perplexity, PerplexitySettings
from hedgebench.tasks.settings import as_settings

SETTINGS: Settings = as_settings(PerplexitySettings(context_length=32, tokenizer="byte", train_bytes=0))
LAYERS = 3


class Words:
    def identify(self, splits: object, sources: Sources) -> DataIdentity:
        return DataIdentity("words", "1", "f00d", "embedded")

    def documents(self, split: str, sources: Sources) -> list[Document]:
        return [Document(str(i), f"the quick brown fox jumps over {i} lazy dogs. " * (i + 1)) for i in range(4)]


WORDS = Perplexity(LAYER_SENSITIVITY.info, Words())
TASK = replace(LAYER_SENSITIVITY, task=replace(WORDS, info=replace(WORDS.info, main_metric="perplexity")))


@pytest.fixture
def data(tmp_path: Path) -> TaskData:
    return TASK.load(SETTINGS, Sources(mirror=None, cache=tmp_path, offline=True))


def adapter(spec: str) -> ModelAdapter[Transformer]:
    backbone = backbone_from_name("gpt", Sources(mirror=None, cache=Path("none"), offline=True))
    sizes = {**backbone.sizes["smoke"], "layers": LAYERS, "heads": 2, "kv_heads": 2, "width": 32, "mlp_width": 64}
    parsed = parse_spec(spec, registry.mechanisms().get)
    shape = ModelShape(context_length=64, vocab_size=257)
    built = build_scratch(parsed, backbone, sizes, shape, 0, Precision.of("cpu", "float32"))
    for name, weight in built.model.named_parameters():
        if ".attention." in name:
            weight.data *= 4.0
    return built


def perplexity(rows: list[Row]) -> float:
    return float(next(m.value or 0.0 for m in TASK.task.score(rows, SETTINGS) if m.name == "perplexity"))


def test_costs_order_and_curve_are_those_of_the_layers(data: TaskData) -> None:
    rows = TASK.predict(adapter("none"), data, SETTINGS)
    metrics = TASK.score(rows, SETTINGS)
    of = {swapped: [r for r in rows if r[SWAPPED] == list(swapped)] for swapped in {tuple(r[SWAPPED]) for r in rows}}
    softmax = perplexity(WORDS.predict(adapter("softmax"), data, SETTINGS))
    without = perplexity(WORDS.predict(adapter("none"), data, SETTINGS))
    assert perplexity(of[()]) == pytest.approx(softmax, rel=1e-5)
    assert perplexity(of[(0, 1, 2)]) == pytest.approx(without, rel=1e-5)

    def named(name: str) -> list[Metric]:
        return [metric for metric in metrics if metric.name == name]

    costs: dict[Any, float] = {metric.at["layer"]: metric.value or 0.0 for metric in named("layer_cost")}
    assert costs == {i: pytest.approx(perplexity(of[(i,)]) - perplexity(of[()])) for i in range(LAYERS)}
    assert len({round(cost, 4) for cost in costs.values()}) == LAYERS
    assert all(metric.stderr is not None and 0 < metric.stderr < 100 for metric in named("layer_cost"))
    order: list[Any] = sorted(costs, key=lambda layer: -costs[layer])
    assert {m.at["layer"]: m.value for m in named("layer_rank")} == {layer: i + 1 for i, layer in enumerate(order)}
    curve = {metric.at["kept_layers"]: metric.value or 0.0 for metric in named("perplexity_kept_layers")}
    assert curve[0] == next(m.value for m in named("perplexity")) == pytest.approx(without, rel=1e-5)
    assert curve[LAYERS] == next(m.value for m in named("perplexity_softmax"))
    assert curve[1] == perplexity(of[tuple(sorted(order[1:]))])
    assert not any(core.stand_in for core in adapter("none").model.cores)


def test_a_layer_that_is_softmax_costs_nothing(data: TaskData) -> None:
    metrics = TASK.score(TASK.predict(adapter("softmax"), data, SETTINGS), SETTINGS)
    costs = [metric for metric in metrics if metric.name == "layer_cost"]
    assert [metric.value for metric in costs] == [0.0] * LAYERS
    assert [metric.stderr for metric in costs] == [0.0] * LAYERS


def test_a_better_score_is_a_negative_cost() -> None:
    low, high = (Metric("accuracy", value, "1", True, None, 1) for value in (0.25, 0.75))
    assert TASK._loss(low, high) == 0.5
    assert TASK._loss(replace(low, higher_is_better=False), high) == -0.5


def test_the_standard_error_is_that_of_a_mean_over_equal_rows(data: TaskData) -> None:
    """Of documents of one token, exp(mean) has the jackknife's error: about the value times that of the mean."""
    rows: list[Row] = [
        {"nll_nats": nll, "tokens": 1, "words": 1, "bytes": 1, "unigram_nll_nats": None, SWAPPED: []}
        for nll in (1.0, 1.2, 0.9, 1.1)
    ]
    flat = [{**row, "nll_nats": 0.0} for row in rows]
    mean, spread = 1.05, math.sqrt(sum((x - 1.05) ** 2 for x in (1.0, 1.2, 0.9, 1.1)) / 3 / 4)
    assert TASK._stderr(rows, flat, SETTINGS) == pytest.approx(math.exp(mean) * spread, rel=0.01)


def test_a_model_without_swapped_layers_is_refused(data: TaskData) -> None:
    kept = adapter("softmax")
    for core in kept.model.cores:
        core.is_kept = True
    with pytest.raises(UnsupportedError, match="no layer whose attention was swapped"):
        TASK.predict(kept, data, SETTINGS)

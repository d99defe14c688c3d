"""Models from scratch on their way from softmax to another attention: swapped, taught, distilled, held to a teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from hedgebench.adapters.base import AttentionMaps, Examples, ModelShape, UnsupportedError, Value
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.precision import Precision
from hedgebench.adapters.scratch.transformer import Transformer
from hedgebench.adapters.spec import ModelSpec, parse_spec
from hedgebench.adapters.training.distillation import (
    AttentionDistillation,
    divergence_of_batches,
    freeze_all_but_maps,
)
from hedgebench.adapters.training.loop import train
from hedgebench.adapters.training.objective import objective_for
from hedgebench.adapters.training.settings import DistillSettings, TrainSettings
from hedgebench.harness.registry import mechanisms

from ..conftest import SHAPES
from ..model_numbers import examples, outputs

Build = Callable[..., ModelAdapter[Transformer]]

CPU = Precision(torch.device("cpu"), torch.float32)
SETTINGS = TrainSettings(steps=12, batch_size=4, lr=0.01, eval_rows=8, eval_batch_size=8, weight_decay=0.0)
KINDS: dict[str, tuple[str, ModelShape, dict[str, Value]]] = {
    "gpt": ("gpt", SHAPES["gpt"], {}),
    "rotary, convolved, grouped": ("gpt", SHAPES["gpt"], {"rope": True, "short_conv": 3, "kv_heads": 1}),
    "vectors": ("gpt", ModelShape(context_length=16, input_dim=5), {}),
    "encoder": ("encoder", SHAPES["encoder"], {}),
    "two towers": ("encoder", replace(SHAPES["encoder"], towers=2), {}),
    "vit": ("vit", SHAPES["vit"], {}),
}
EACH_KIND = pytest.mark.parametrize("kind", KINDS)


def spec(text: str) -> ModelSpec:
    return parse_spec(text, mechanisms().get)


@pytest.fixture
def trained(build: Build) -> Callable[[str], ModelAdapter[Transformer]]:
    """Builds a softmax model of one kind, whose weights are far from their start."""

    def make(kind: str) -> ModelAdapter[Transformer]:
        backbone, shape, size = KINDS[kind]
        adapter = build(backbone=backbone, shape=shape, **size)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for value in adapter.model.parameters():
                value.add_(0.3 * torch.randn(value.shape, generator=generator))
        adapter.model.no_teacher = ""
        return adapter

    return make


def data_of(adapter: ModelAdapter[Transformer]) -> Examples:
    data = examples(adapter.shape)
    return replace(data, inputs=data.inputs.astype(np.float32)) if data.inputs.dtype == np.float64 else data


def base_of(adapter: ModelAdapter[Transformer]) -> dict[str, torch.Tensor]:
    weights = adapter.model.state_dict().items()
    return {name: value.clone() for name, value in weights if ".core." not in name}


def compared(adapter: ModelAdapter[Transformer]) -> list[AttentionMaps]:
    """The maps of each layer over some inputs."""
    layers: list[AttentionMaps] = []
    data = data_of(adapter)
    inputs = torch.as_tensor(data.inputs)
    mask = None if data.attention_mask is None else torch.as_tensor(data.attention_mask)
    adapter.compare_attention(
        inputs if inputs.is_floating_point() else inputs.long(), lambda _, m: layers.append(m), mask
    )
    return layers


@EACH_KIND
def test_softmax_swapped_in_leaves_the_outputs_of_the_trained_model(
    trained: Callable[[str], ModelAdapter[Transformer]], kind: str
) -> None:
    adapter = trained(kind)
    before, weights = outputs(adapter, data_of(adapter)), base_of(adapter)
    adapter.swap_in(spec("softmax:backend=naive"), seed=5)
    assert outputs(adapter, data_of(adapter)) == pytest.approx(before, rel=1e-4, abs=1e-5)
    assert adapter.model.spec.canonical == "softmax:backend=naive"
    assert all(torch.equal(weights[name], value) for name, value in base_of(adapter).items())


@EACH_KIND
@pytest.mark.parametrize("text", ["taylor", "t2r", "performer"])
def test_a_swapped_model_is_one_that_was_built_with_its_attention_and_seed(
    trained: Callable[[str], ModelAdapter[Transformer]], build: Build, kind: str, text: str
) -> None:
    adapter = trained(kind)
    backbone, shape, size = KINDS[kind]
    expected = build(text, backbone, shape=shape, seed=5, **size)
    expected.model.load_state_dict(base_of(adapter), strict=False)
    adapter.swap_in(spec(text), seed=5)
    assert outputs(adapter, data_of(adapter)) == outputs(expected, data_of(expected))
    assert adapter.model.state_dict().keys() == expected.model.state_dict().keys()


@pytest.mark.parametrize("text", ["gla", "mamba2", "gated_deltanet"])
def test_gates_that_are_swapped_in_follow_from_the_seed_alone(build: Build, text: str) -> None:
    """A teacher that this process trained has drawn random numbers; one that an earlier cell trained has not."""
    first, same, other = (build(), build(), build())
    for adapter, drawn, seed in ((first, 0, 5), (same, 3, 5), (other, 0, 6)):
        torch.rand(drawn)
        before = torch.get_rng_state()
        adapter.swap_in(spec(text), seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
    weights = [torch.cat([p.flatten() for p in each.model.cores[0].parameters()]) for each in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@torch.no_grad()
@EACH_KIND
def test_in_a_lesson_softmax_attentions_outputs_flow_on(
    trained: Callable[[str], ModelAdapter[Transformer]], kind: str
) -> None:
    adapter = trained(kind)
    softmax = outputs(adapter, data_of(adapter))
    adapter.swap_in(spec("elu"), seed=0)
    seen = []
    with adapter.model.teaching(lambda layer, core, heads, causal, out: seen.append((layer, core, heads, causal, out))):
        assert outputs(adapter, data_of(adapter)) == pytest.approx(softmax, rel=1e-5)
    assert outputs(adapter, data_of(adapter)) != pytest.approx(softmax, rel=1e-3)
    assert [(layer, core) for layer, core, *_ in seen] == list(enumerate(adapter.model.cores))
    for _, core, heads, causal, out in seen:
        assert causal == adapter.model.config.causal
        assert not torch.allclose(core.outputs(heads, causal=causal), out, rtol=1e-3)


@EACH_KIND
def test_distillation_changes_maps_alone_and_brings_attention_closer(
    trained: Callable[[str], ModelAdapter[Transformer]], kind: str
) -> None:
    adapter = trained(kind)
    adapter.swap_in(spec("hedgehog"), seed=0)
    data, settings, weights = data_of(adapter), DistillSettings(), base_of(adapter)
    freeze_all_but_maps(adapter.model, settings)
    objective = AttentionDistillation(adapter.model, settings)
    before = divergence_of_batches(objective, data, SETTINGS, CPU)
    train(adapter.model, data, data, SETTINGS, seed=0, precision=CPU, objective=objective)
    after = divergence_of_batches(objective, data, SETTINGS, CPU)
    assert before.shape == after.shape == (1, 2, 2)
    assert after.mean() < 0.8 * before.mean()
    assert all(torch.equal(weights[name], value) for name, value in base_of(adapter).items())


@EACH_KIND
def test_without_a_step_the_divergence_is_that_of_the_swapped_maps_from_the_teachers(
    trained: Callable[[str], ModelAdapter[Transformer]], kind: str
) -> None:
    """In the first layer, whose heads no map of an earlier one has changed."""
    adapter = trained(kind)
    adapter.swap_in(spec("taylor"), seed=0)
    data = data_of(adapter)
    measured = divergence_of_batches(AttentionDistillation(adapter.model, DistillSettings()), data, SETTINGS, CPU)
    maps = compared(adapter)[0]
    assert maps.teacher is not None
    kl = (torch.special.xlogy(maps.teacher, maps.teacher) - torch.special.xlogy(maps.teacher, maps.weights)).sum(-1)
    rows = kl.transpose(1, 2).flatten(0, 1)
    real = None if data.attention_mask is None else torch.as_tensor(data.attention_mask).flatten()
    expected = (rows if real is None else rows[real]).mean(0)
    torch.testing.assert_close(torch.as_tensor(measured[0, 0]), expected.double(), rtol=1e-3, atol=1e-5)


@EACH_KIND
def test_the_teacher_is_the_softmax_model_before_fine_tuning(
    trained: Callable[[str], ModelAdapter[Transformer]], kind: str
) -> None:
    adapter = trained(kind)
    alone = [maps.weights for maps in compared(adapter)]
    adapter.swap_in(spec("elu"), seed=0)
    adapter.model.keep_teacher()
    data = data_of(adapter)
    train(adapter.model, data, None, SETTINGS, seed=0, precision=CPU, objective=objective_for(adapter.shape))
    tuned = base_of(adapter)
    for expected, maps in zip(alone, compared(adapter), strict=True):
        assert maps.teacher is not None
        torch.testing.assert_close(maps.teacher, expected)
        assert not torch.allclose(maps.softmax, expected, atol=1e-3)
    assert all(torch.equal(tuned[name], value) for name, value in base_of(adapter).items())


def test_a_model_that_was_converted_is_not_converted_again(build: Build) -> None:
    adapter = build("hedgehog")
    adapter.swap_in(spec("hedgehog"), seed=0)
    with pytest.raises(UnsupportedError, match="was converted to hedgehog, so it cannot be elu"):
        adapter.swap_in(spec("elu"), seed=0)


@pytest.mark.parametrize("backbone", ["encoder", "vit"])
def test_an_attention_for_decoders_alone_leaves_an_encoder_as_it_was(build: Build, backbone: str) -> None:
    adapter = build(backbone=backbone)
    with pytest.raises(UnsupportedError, match="hedgehog:window=4 exists only in decoders; this model is an encoder"):
        adapter.swap_in(spec("hedgehog:window=4"), seed=0)
    assert adapter.model.spec.canonical == "softmax"

"""Attention distillation: what it trains, what it leaves alone, and what it is worth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hedgebench.adapters.attention.core import AttentionCore, Heads
from hedgebench.adapters.attention.softmax import softmax_weights
from hedgebench.adapters.base import Examples, UnsupportedError
from hedgebench.adapters.pretrained.adapter import checkpoint_activations
from hedgebench.adapters.pretrained.model import PretrainedModel
from hedgebench.adapters.training.distillation import (
    AttentionDistillation,
    divergence_of_batches,
    freeze_all_but_maps,
    has_weights_to_compare,
    maps_of,
)
from hedgebench.adapters.training.loop import train
from hedgebench.adapters.training.settings import DistillSettings, TrainSettings

from ..swapped import CPU, inputs_of, swapped
from ..tiny_models import DECODERS, MODEL_TYPES

ROWS = np.arange(3)
SETTINGS = DistillSettings()


def examples_of(model_type: str) -> Examples:
    inputs, mask = inputs_of(model_type)
    rows = inputs.numpy() if inputs.is_floating_point() else inputs.numpy().astype(np.int32)
    return Examples(rows, np.zeros(len(rows), np.int32), None if mask is None else mask.numpy())


def prepared(model_type: str, text: str = "hedgehog", settings: DistillSettings = SETTINGS) -> PretrainedModel:
    model = swapped(model_type, text)
    freeze_all_but_maps(model, settings)
    return model


def perturb_maps(model: PretrainedModel) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for core in model.cores:
            for feature_map in maps_of(core):
                for weight in feature_map.parameters():
                    weight.add_(0.2 * torch.randn(weight.shape, generator=generator))


def rows_of(model_type: str) -> np.ndarray:
    return np.arange(len(inputs_of(model_type)[0]))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_loss_is_the_cross_entropy_of_both_attentions_weights(model_type: str) -> None:
    model, data, rows = prepared(model_type), examples_of(model_type), rows_of(model_type)
    perturb_maps(model)
    objective = AttentionDistillation(model, SETTINGS)
    loss = objective.loss(model, data, rows, CPU.device)
    inputs, mask = inputs_of(model_type)
    losses, divergences = [], []

    def visit(_: int, core: AttentionCore, heads: Heads, causal: bool, __: Tensor) -> None:
        teacher = softmax_weights(heads, causal).double()
        student = core.weights(heads, causal=causal).double()
        real = heads.key_padding_mask
        real = torch.ones(heads.q.shape[0], heads.q.shape[2], dtype=torch.bool) if real is None else real
        cross = -(teacher * student.clamp(min=1e-12).log()).sum(-1).transpose(1, 2)[real]  # queries h
        entropy = -torch.special.xlogy(teacher, teacher).sum(-1).transpose(1, 2)[real]
        losses.append(cross.mean())
        divergences.append((cross - entropy).mean(0))

    with torch.no_grad(), model.teaching(visit):
        model.hidden(inputs, mask)
    expected = torch.stack(losses).sum() * objective.count(data, rows)
    torch.testing.assert_close(loss.detach().double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(objective.take_divergence(), torch.stack(divergences), rtol=1e-3, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_softmax_attentions_outputs_flow_on(model_type: str) -> None:
    inputs, mask = inputs_of(model_type)
    model = swapped(model_type, "hedgehog")
    with model.teaching(lambda *_: None):
        taught = model.hidden(inputs, mask)
    expected = swapped(model_type, "softmax").hidden(inputs, mask)
    real = slice(None) if mask is None else mask
    torch.testing.assert_close(taught[real], expected[real], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(model.hidden(inputs, mask)[real], expected[real], rtol=1e-3)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_training_changes_maps_alone_and_brings_attention_closer(model_type: str) -> None:
    model, data = prepared(model_type), examples_of(model_type)
    perturb_maps(model)
    before = {name: value.clone() for name, value in model.named_parameters()}
    objective = AttentionDistillation(model, SETTINGS)
    settings = TrainSettings.of(
        {"steps": 25, "batch_size": 2, "lr": 0.01, "weight_decay": 0.0, "eval_rows": 3, "eval_batch_size": 3}
    )
    start = divergence_of_batches(objective, data, settings, CPU)
    history = train(model, data, data, settings, seed=0, precision=CPU, objective=objective)
    end = divergence_of_batches(objective, data, settings, CPU)
    assert end.mean() < 0.7 * start.mean()
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if "_map." in name}
    names = {point.name for point in history.curves if point.split == "validation"}
    assert names == {"loss", "attention_kl", *(f"attention_kl/layer {i}" for i in range(len(model.cores)))}


@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_padding_does_not_count(model_type: str) -> None:
    """Whatever stands at padded tokens."""
    model, data = prepared(model_type), examples_of(model_type)
    perturb_maps(model)
    assert data.attention_mask is not None
    other = Examples(np.where(data.attention_mask, data.inputs, 7).astype(np.int32), data.targets, data.attention_mask)
    losses = [AttentionDistillation(model, SETTINGS).loss(model, d, ROWS, CPU.device).item() for d in (data, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_error_of_outputs_can_take_the_place_of_the_weights() -> None:
    settings = DistillSettings(attention_factor=0.0, output_factor=1000.0)
    model, data = prepared("llama", settings=settings), examples_of("llama")
    perturb_maps(model)
    objective = AttentionDistillation(model, settings)
    loss = objective.loss(model, data, ROWS, CPU.device)
    errors = []

    def visit(_: int, core: AttentionCore, heads: Heads, causal: bool, out: Tensor) -> None:
        student = core.outputs(heads, causal=causal)
        errors.append((student - out).pow(2).mean((1, 3))[heads.key_padding_mask].mean())

    with torch.no_grad(), model.teaching(visit):
        model.hidden(*inputs_of("llama"))
    expected = 1000 * torch.stack(errors).sum() * objective.count(data, ROWS)
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-4)
    torch.autograd.backward(loss)
    assert all(w.grad is not None for core in model.cores for w in core.parameters())


def test_the_gate_of_a_hybrid_is_trained_where_outputs_are_compared() -> None:
    for settings, trained in ((SETTINGS, False), (DistillSettings(output_factor=1.0), True)):
        model = prepared("llama", "hedgehog:window=4", settings)
        gates = [value.requires_grad for name, value in model.named_parameters() if name.endswith("gate_logit")]
        assert gates == [trained] * 2


@pytest.mark.parametrize("model_type", DECODERS)
def test_gradient_checkpointing_gives_the_same_gradients(model_type: str) -> None:
    gradients = []
    for checkpointed in (False, True):
        model = prepared(model_type)
        perturb_maps(model)
        if checkpointed:
            checkpoint_activations(model.inner)
            model.train()
            for part in model.modules():
                if isinstance(part, torch.nn.Dropout):
                    part.p = 0.0
        loss = AttentionDistillation(model, SETTINGS).loss(model, examples_of(model_type), ROWS, CPU.device)
        torch.autograd.backward(loss)
        gradients.append([w.grad for core in model.cores for w in core.parameters()])
    for plain, checkpointed_gradient in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed_gradient)


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor that an operation gave."""

    elements: int

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


@contextmanager
def _small_tiles() -> Iterator[None]:
    """Tiles so small that whole weights would stand out, outside of the operator, inside which nothing is seen."""
    from hedgebench.kernels.distillation import loss as distillation
    from hedgebench.kernels.distillation import op as distillation_op
    from hedgebench.kernels.distillation import tiles as distillation_tiles

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distillation_tiles, "CPU_TILE_ELEMENTS", 1 << 14)
        patch.setattr(distillation, "distillation", distillation_op.run_distillation)
        yield


def largest_tensor(tokens: int) -> int:
    """Elements of the largest tensor in a forward and backward pass over a row of so many tokens."""
    model = prepared("llama")
    ids = np.random.default_rng(0).integers(0, 40, (1, tokens), dtype=np.int32)
    with _small_tiles(), _Largest() as largest:
        loss = AttentionDistillation(model, SETTINGS).loss(model, Examples(ids, ids), np.arange(1), CPU.device)
        torch.autograd.backward(loss)
    elements: int = largest.elements
    return elements


def test_memory_is_linear_in_tokens() -> None:
    """Twice the tokens take tensors twice as large at most, and none holds the weights of all pairs of tokens."""
    short, long = largest_tensor(512), largest_tensor(1024)
    heads = swapped("llama", "softmax").inner.config.num_attention_heads
    assert heads * 512 <= short
    assert long <= 2 * short
    assert long < heads * 1024 * 1024 / 4


def test_what_has_no_map_cannot_be_distilled() -> None:
    with pytest.raises(UnsupportedError, match="SoftmaxAttention has no feature map"):
        maps_of(swapped("llama", "softmax").cores[0])
    assert not has_weights_to_compare(swapped("llama", "softmax"))
    assert not has_weights_to_compare(swapped("llama", "identity_linear"))
    assert has_weights_to_compare(swapped("llama", "elu"))


def test_a_batch_within_the_window_of_a_hybrid_has_no_loss_and_no_gradient() -> None:
    """Softmax over the window is all that such rows see; one short batch must not end a long run."""
    settings = DistillSettings(attention_factor=0.0, output_factor=1.0)
    model, data = prepared("llama", "hedgehog:window=64", settings), examples_of("llama")
    loss = AttentionDistillation(model, settings).loss(model, data, ROWS, CPU.device)
    torch.autograd.backward(loss)
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-8)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained
    assert all(p.grad is not None and not p.grad.any() for p in trained)


@pytest.mark.parametrize("model_type", ["llama", "bert"])
def test_a_layer_that_a_hybrid_keeps_is_passed_by(model_type: str) -> None:
    """It diverges from softmax by nothing, and the others learn what they would learn in the whole model."""
    hybrid, whole = prepared(model_type, "hedgehog:keep=0"), prepared(model_type)
    taken = []
    for model in (hybrid, whole):
        objective = AttentionDistillation(model, SETTINGS)
        torch.autograd.backward(objective.loss(model, examples_of(model_type), rows_of(model_type), CPU.device))
        taken.append(objective.take_divergence())
    assert not taken[0][0].any()
    assert torch.equal(taken[0][1], taken[1][1])
    assert has_weights_to_compare(hybrid)
    assert not list(hybrid.cores[0].parameters())
    gradients = [[weight.grad for weight in model.cores[1].parameters()] for model in (hybrid, whole)]
    for found, wanted in zip(*gradients, strict=True):
        assert found is not None
        assert wanted is not None
        assert torch.equal(found, wanted)

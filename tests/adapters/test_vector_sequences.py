"""Decoders that read sequences of vectors: what they give, learn and refuse."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hedgebench.adapters.base import IGNORED, Capability, Examples, ModelShape, UnsupportedError
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.precision import Precision
from hedgebench.adapters.scratch.transformer import Transformer
from hedgebench.adapters.training.loop import evaluate_loss, train
from hedgebench.adapters.training.objective import CROSS_ENTROPY, TargetLoss, objective_for
from hedgebench.adapters.training.settings import TrainSettings

Build = Callable[..., ModelAdapter[Transformer]]

REGRESSION = ModelShape(context_length=8, input_dim=3)
LABELS = ModelShape(context_length=8, vocab_size=2, input_dim=3)
SPECS = ["softmax", "hedgehog", "elu", "window:window=3"]
CPU = Precision(torch.device("cpu"), torch.float32)


@pytest.fixture
def vectors() -> torch.Tensor:
    return torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(("shape", "outputs"), [(REGRESSION, 1), (LABELS, 2)])
def test_each_position_has_its_outputs_and_sees_no_later_one(
    build: Build, spec: str, shape: ModelShape, outputs: int, vectors: torch.Tensor
) -> None:
    adapter = build(spec, shape=shape)
    found = adapter.sequence_outputs(vectors)
    changed = torch.cat([vectors[:, :4], -vectors[:, 4:]], dim=1)
    assert found.shape == (4, 7, outputs)
    torch.testing.assert_close(adapter.sequence_outputs(changed)[:, :4], found[:, :4], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(adapter.sequence_outputs(changed)[:, 4:], found[:, 4:])


@torch.no_grad()
def test_vectors_are_read_in_by_a_linear_layer_and_read_out_by_another(build: Build, vectors: torch.Tensor) -> None:
    model = build(shape=REGRESSION).model.eval()
    one_hot = torch.eye(3)[torch.tensor([[0, 2, 1]])]
    embedded, _ = model._embed(one_hot, None)
    assert isinstance(model.embedding, torch.nn.Linear)
    assert model.positions is not None
    expected = model.embedding.weight.T[[0, 2, 1]] + model.embedding.bias + model.positions.weight[:3]
    torch.testing.assert_close(embedded[0], expected)
    hidden = model.hidden(vectors)
    assert isinstance(model.head, torch.nn.Linear)
    torch.testing.assert_close(model(vectors), F.linear(hidden, model.head.weight, model.head.bias))


def test_a_shape_says_what_is_to_be_minimised() -> None:
    assert REGRESSION.needs == LABELS.needs == Capability.VECTOR_SEQUENCES
    assert objective_for(REGRESSION) == TargetLoss(is_regression=True)
    assert objective_for(LABELS) == CROSS_ENTROPY
    assert objective_for(ModelShape(8, 11, num_classes=1)) == TargetLoss(is_regression=True)
    assert objective_for(ModelShape(8, 11)) == CROSS_ENTROPY


def test_squared_error_leaves_out_positions_without_a_target(build: Build) -> None:
    inputs = np.random.default_rng(0).normal(size=(2, 7, 3)).astype(np.float32)
    targets = np.full((2, 7), np.nan, np.float32)
    targets[:, ::2] = [[1, 2, 3, 4], [5, 6, 7, 8]]
    adapter, rows = build(shape=REGRESSION), np.array([0, 1])
    objective, examples = TargetLoss(is_regression=True), Examples(inputs, targets)
    loss = objective.loss(adapter.model, examples, rows, adapter.device)
    expected = np.square(adapter.sequence_outputs(torch.as_tensor(inputs)).numpy()[:, ::2, 0] - targets[:, ::2]).sum()
    assert objective.count(examples, rows) == 8
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    torch.autograd.backward(loss)
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in adapter.model.parameters())


@pytest.mark.parametrize("spec", ["softmax", "hedgehog"])
def test_training_learns_to_sum_what_came_before(build: Build, spec: str) -> None:
    inputs = np.random.default_rng(0).normal(size=(256, 7, 3)).astype(np.float32)
    examples = Examples(inputs, inputs[..., 0].cumsum(axis=1) / 3)
    settings = TrainSettings.of({"steps": 60, "batch_size": 32, "lr": 0.01})
    adapter = build(spec, shape=ModelShape(context_length=7, input_dim=3))
    before = evaluate_loss(adapter.model, examples, settings, CPU, objective_for(adapter.shape))
    train(adapter.model, examples, None, settings, seed=0, precision=CPU, objective=objective_for(adapter.shape))
    after = evaluate_loss(adapter.model, examples, settings, CPU, objective_for(adapter.shape))
    assert after < 0.4 * before


def test_labels_of_ignored_positions_take_no_loss(build: Build) -> None:
    targets = np.array([[0, IGNORED, 1, IGNORED]], np.int32)
    examples = Examples(np.ones((1, 4, 3), np.float32), targets)
    adapter = build(shape=LABELS)
    logits = adapter.sequence_outputs(torch.ones(1, 4, 3))[0]
    expected = F.cross_entropy(logits[[0, 2]], torch.tensor([0, 1]))
    found = evaluate_loss(adapter.model, examples, TrainSettings(1, 1, 0.1), CPU, objective_for(LABELS))
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_the_decode_state_is_that_of_a_model_of_tokens_with_the_same_sizes(build: Build) -> None:
    for spec in ("softmax", "hedgehog"):
        tokens = build(spec, shape=ModelShape(context_length=8, vocab_size=11))
        assert build(spec, shape=REGRESSION).state_bytes(2, 6) == tokens.state_bytes(2, 6)


def test_a_model_of_vectors_has_no_tokens_and_a_model_of_tokens_no_vectors(build: Build, vectors: torch.Tensor) -> None:
    tokens, of_vectors, of_tokens = torch.zeros(1, 4, dtype=torch.long), build(shape=REGRESSION), build()
    calls: list[Callable[[], object]] = [
        lambda: of_vectors.logits(tokens),
        lambda: of_vectors.prefill(tokens),
        lambda: of_vectors.generate(tokens, max_new_tokens=1),
        lambda: of_tokens.sequence_outputs(vectors),
    ]
    for call in calls:
        with pytest.raises(UnsupportedError, match=r"this model cannot do .*; it can do: "):
            call()
    with pytest.raises(UnsupportedError, match="9 tokens do not fit the context length 8"):
        of_vectors.sequence_outputs(torch.zeros(1, 9, 3))


@pytest.mark.parametrize("backbone", ["encoder", "vit"])
def test_other_backbones_refuse_vectors(build: Build, backbone: str) -> None:
    with pytest.raises(UnsupportedError, match=f"backbone {backbone} cannot be a vector_sequences"):
        build(backbone=backbone, shape=REGRESSION)

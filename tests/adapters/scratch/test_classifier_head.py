from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from hedgebench.adapters.base import Examples, ModelShape, UnsupportedError
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.scratch.classifier_head import build_head, compare_towers, mean_of_tokens
from hedgebench.adapters.scratch.transformer import Transformer
from hedgebench.adapters.training.loop import row_lengths
from hedgebench.adapters.training.objective import batch_of

Build = Callable[..., ModelAdapter[Transformer]]

TOWERS = ModelShape(context_length=16, vocab_size=11, num_classes=3, towers=2)


@pytest.fixture
def pairs() -> torch.Tensor:
    """Three pairs of sequences of nine token ids below 11."""
    return torch.randint(0, 11, (3, 2, 9), generator=torch.Generator().manual_seed(0))


def test_features_of_two_towers_are_both_their_product_and_their_difference() -> None:
    pooled = torch.tensor([[1.0, 2.0], [3.0, 5.0], [0.0, 1.0], [2.0, 2.0]])
    assert compare_towers(pooled).tolist() == [[1, 2, 3, 5, 3, 10, -2, -3], [0, 1, 2, 2, 0, 2, -2, -1]]


def test_the_mean_leaves_padding_out() -> None:
    hidden = torch.tensor([[[1.0], [3.0], [100.0]]])
    assert mean_of_tokens(hidden, torch.tensor([[True, True, False]])).item() == 2
    assert mean_of_tokens(hidden, torch.tensor([[False, False, False]])).item() == 0
    assert mean_of_tokens(hidden[:, :2], None).item() == 2


def test_a_head_is_linear_or_has_one_hidden_layer() -> None:
    assert isinstance(build_head(4, 0, 2), nn.Linear)
    head = build_head(4, 8, 2)
    assert [tuple(weight.shape) for weight in head.parameters()] == [(8, 4), (8,), (2, 8), (2,)]


@pytest.mark.parametrize("spec", ["softmax", "hedgehog", "elu"])
def test_each_document_goes_through_the_model_by_itself(build: Build, spec: str, pairs: torch.Tensor) -> None:
    adapter = build(spec, "encoder", shape=TOWERS, head_width=8)
    model = adapter.model
    means = [model.hidden(pairs[:, tower]).mean(1) for tower in (0, 1)]
    assert model.head is not None
    expected = model.head(torch.cat([*means, means[0] * means[1], means[0] - means[1]], dim=1))
    torch.testing.assert_close(adapter.class_logits(pairs), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(adapter.class_logits(pairs.flip(1)), expected, atol=1e-3)


@pytest.mark.parametrize("spec", ["softmax", "hedgehog", "elu"])
def test_documents_of_different_lengths_are_those_without_padding(build: Build, spec: str, pairs: torch.Tensor) -> None:
    adapter = build(spec, "encoder", shape=TOWERS)
    mask = torch.ones_like(pairs, dtype=torch.bool)
    mask[:, 0, 5:] = False
    junk = pairs.clone()
    junk[:, 0, 5:] = 7
    torch.testing.assert_close(adapter.class_logits(junk, mask), adapter.class_logits(pairs, mask))
    weights = adapter.attention_weights(pairs, mask)
    assert [tuple(layer.shape) for layer in weights] == [(6, 2, 9, 9)] * 2
    assert weights[0][0::2, ..., 5:].abs().max() < 1e-6


def test_every_weight_of_two_towers_is_trained(build: Build, pairs: torch.Tensor) -> None:
    adapter = build("hedgehog", "encoder", shape=TOWERS, head_width=8)
    torch.autograd.backward(adapter.model(pairs).square().sum())
    assert all(parameter.grad is not None for parameter in adapter.model.parameters())
    assert adapter.training_step(pairs, torch.tensor([0, 1, 2])) > 0


def test_documents_that_do_not_fit_are_refused(build: Build) -> None:
    with pytest.raises(UnsupportedError, match="17 tokens do not fit the context length 16"):
        build("softmax", "encoder", shape=TOWERS).class_logits(torch.zeros(1, 2, 17, dtype=torch.long))


def test_only_an_encoder_compares_two_sequences(build: Build) -> None:
    images = ModelShape(context_length=1, num_classes=3, image_size=8, channels=2, towers=2)
    with pytest.raises(UnsupportedError, match="backbone vit reads one sequence in each row"):
        build("softmax", "vit", shape=images)


@pytest.mark.parametrize("towers", [0, 3])
def test_there_are_one_or_two_towers(build: Build, towers: int) -> None:
    with pytest.raises(ValueError, match=f"towers is {towers}; allowed: 1 or 2"):
        build("softmax", "encoder", shape=ModelShape(16, 11, num_classes=3, towers=towers))


def test_batches_of_pairs_are_cut_to_the_longest_document_of_both_towers() -> None:
    mask = np.zeros((2, 2, 9), bool)
    mask[0, 0, :2] = mask[0, 1, :6] = mask[1, 0, :3] = mask[1, 1, :1] = True
    examples = Examples(np.zeros((2, 2, 9), np.int32), np.array([0, 1], np.int32), mask)
    assert row_lengths(examples).tolist() == [6, 3]
    inputs, cut, targets = batch_of(examples, np.array([1]), torch.device("cpu"))
    assert inputs.shape == (1, 2, 3)
    assert cut is not None
    assert cut.sum(-1).tolist() == [[3, 1]]
    assert targets.tolist() == [1]

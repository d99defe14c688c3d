"""Properties of the distillation loss and its gradients, whatever the sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hedgebench.kernels.distillation.loss import attention_distillation_loss

from .property_calls import GARBAGE, Call, calls, repeatable

both_spaces = pytest.mark.parametrize("log_space", [False, True])
both_ways = pytest.mark.parametrize("causal", [False, True])


def losses(call: Call, features: tuple[Tensor, Tensor], **options: Any) -> list[Tensor]:
    """Gives cross-entropy, divergence, and the gradients of the student's features."""
    leaves = [x.detach().clone().requires_grad_() for x in features]
    loss = attention_distillation_loss(call.q, call.k, *leaves, key_padding_mask=call.mask, **options)
    upstream = torch.arange(1.0, 1.0 + call.q.shape[1], dtype=torch.float64)
    return [loss.cross_entropy.detach(), loss.kl, *torch.autograd.grad(loss.cross_entropy, leaves, upstream)]


def features_of(call: Call, log_space: bool) -> tuple[Tensor, Tensor]:
    return call.features("exp" if log_space else "softmax")


def assert_same(got: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@both_ways
@both_spaces
@repeatable
@given(call=calls(), tile=st.sampled_from([1, 3, 16, 500]))
def test_the_size_of_tiles_does_not_matter(causal: bool, log_space: bool, call: Call, tile: int) -> None:
    features = features_of(call, log_space)
    got = losses(call, features, causal=causal, log_space=log_space, tile=tile)
    assert_same(got, losses(call, features, causal=causal, log_space=log_space))


@both_ways
@both_spaces
@repeatable
@given(call=calls(masked=False), left=st.integers(0, 3), right=st.integers(0, 3), garbage=st.sampled_from(GARBAGE))
def test_garbage_in_padding_changes_neither_loss_nor_gradient(
    causal: bool, log_space: bool, call: Call, left: int, right: int, garbage: float
) -> None:
    def padded(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, 0, left, right), value=garbage)

    tokens, features = call.q.shape[2], features_of(call, log_space)
    mask = torch.zeros(call.q.shape[0], left + tokens + right, dtype=torch.bool)
    mask[:, left : left + tokens] = True
    wider = call._replace(q=padded(call.q), k=padded(call.k), mask=mask)
    got = losses(wider, (padded(features[0]), padded(features[1])), causal=causal, log_space=log_space)
    inner = [x[:, :, left : left + tokens] for x in got[2:]]
    assert_same([*got[:2], *inner], losses(call, features, causal=causal, log_space=log_space))
    assert sum(int(x.count_nonzero()) for x in got[2:]) == sum(int(x.count_nonzero()) for x in inner)


@both_spaces
@repeatable
@given(call=calls())
def test_two_calls_give_the_same_bits(log_space: bool, call: Call) -> None:
    features = features_of(call, log_space)
    one, other = (losses(call, features, causal=True, log_space=log_space) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


@both_spaces
@repeatable
@given(call=calls())
def test_strided_inputs_are_read_as_they_stand(log_space: bool, call: Call) -> None:
    def turned(x: Tensor) -> Tensor:
        return x.transpose(1, 2).contiguous().transpose(1, 2)

    features = features_of(call, log_space)
    strided = call._replace(q=turned(call.q), k=call.k.repeat_interleave(2, dim=-1)[..., ::2])
    got = losses(strided, (turned(features[0]), turned(features[1])), causal=True, log_space=log_space)
    assert_same(got, losses(call, features, causal=True, log_space=log_space))


@both_ways
@both_spaces
@repeatable
@given(call=calls())
def test_grouped_queries_are_repeated_keys(causal: bool, log_space: bool, call: Call) -> None:
    """The gradient of a shared key's features is the sum of those of its repetitions."""
    phi_q, phi_k = features_of(call, log_space)
    groups = phi_q.shape[1] // phi_k.shape[1]
    repeated = call._replace(k=call.k.repeat_interleave(groups, 1))
    *got, grad_k = losses(repeated, (phi_q, phi_k.repeat_interleave(groups, 1)), causal=causal, log_space=log_space)
    summed = torch.unflatten(grad_k, 1, (-1, groups)).sum(2)
    assert_same([*got, summed], losses(call, (phi_q, phi_k), causal=causal, log_space=log_space))


@both_spaces
@repeatable
@given(call=calls())
def test_a_loss_is_never_below_the_teachers_entropy(log_space: bool, call: Call) -> None:
    cross_entropy, kl, *gradients = losses(call, features_of(call, log_space), causal=True, log_space=log_space)
    assert (kl >= -1e-9).all()
    assert (cross_entropy >= kl - 1e-9).all()
    assert all(gradient.isfinite().all() for gradient in gradients)

"""Log features up to 200 in size, in float32, against float64 scores summed one by one."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from hedgebench.kernels.chunk.attention import linear_attention_chunk, linear_attention_recurrent
from hedgebench.kernels.linear.naive import linear_attention_naive
from hedgebench.kernels.linear.spaces import HEADROOM

Draw = Callable[..., tuple[Tensor, Tensor, Tensor]]


FORMS = {"chunk": linear_attention_chunk, "recurrent": linear_attention_recurrent}


def uniform(_: Tensor) -> None:
    """Leaves the keys as they were drawn."""


def huge_key_in_the_middle_of_a_chunk(keys: Tensor) -> None:
    keys[:, :, 70] = 200.0


def low_then_high(keys: Tensor) -> None:
    keys[:, :, :100] = -200.0
    keys[:, :, 100:] = 200.0


def rising(keys: Tensor) -> None:
    keys.copy_(keys.sort(dim=2).values)


def falling(keys: Tensor) -> None:
    keys.copy_(keys.sort(dim=2, descending=True).values)


def a_peak_in_one_feature_only(keys: Tensor) -> None:
    keys.fill_(-200.0)
    keys[:, :, 5::17, 3] = 200.0


KEYS: list[Callable[[Tensor], None]] = [
    uniform,
    huge_key_in_the_middle_of_a_chunk,
    low_then_high,
    rising,
    falling,
    a_peak_in_one_feature_only,
]


def draw(arrange: Callable[[Tensor], None], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k = (400 * torch.rand(1, 2, 150, 16, generator=generator) - 200 for _ in range(2))
    arrange(k)
    return q, k, torch.randn(1, 2, 150, 8, generator=generator)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("arrange", KEYS)
@pytest.mark.parametrize("form", FORMS)
def test_outputs_are_exact_in_float32(form: str, arrange: Callable[[Tensor], None], causal: bool) -> None:
    q, k, v = draw(arrange)
    exact = linear_attention_naive(q.double(), k.double(), v.double(), causal=causal, log_space=True)
    output, _ = FORMS[form](q, k, v, causal=causal, log_space=True)
    error = (output - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert error.max() <= 1e-5


@pytest.mark.parametrize("arrange", KEYS)
@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_finite_and_close_in_float32(form: str, arrange: Callable[[Tensor], None]) -> None:
    tensors = draw(arrange)
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    output, _ = FORMS[form](*leaves, causal=True, log_space=True)
    doubles = [tensor.double().requires_grad_() for tensor in tensors]
    exact = linear_attention_naive(*doubles, causal=True, log_space=True)
    gradients = torch.autograd.grad(output.square().sum(), leaves)
    references = torch.autograd.grad(exact.square().sum(), doubles)
    for gradient, reference in zip(gradients, references, strict=True):
        atol = 1e-5 + 1e-4 * float(reference.abs().max())
        torch.testing.assert_close(gradient.double(), reference, rtol=0, atol=atol)


def test_it_equals_the_unshifted_formula_where_that_is_finite(qkv: Draw) -> None:
    q, k, v = qkv(n=60, spread=5.0)
    scores = (q.exp() @ k.exp().mT).tril()
    output, _ = linear_attention_chunk(q, k, v, causal=True, log_space=True, chunk_size=16)
    torch.testing.assert_close(output, scores @ v / scores.sum(-1, keepdim=True), rtol=1e-11, atol=1e-11)


def test_a_shift_of_all_keys_in_a_feature_moves_over_to_the_query(qkv: Draw) -> None:
    q, k, v = qkv(n=40)
    shift = torch.linspace(-300, 300, q.shape[-1], dtype=torch.float64)
    output, _ = linear_attention_chunk(q + shift, k - shift, v, causal=True, log_space=True, chunk_size=16)
    expected, _ = linear_attention_chunk(q, k, v, causal=True, log_space=True, chunk_size=16)
    torch.testing.assert_close(output, expected, rtol=1e-11, atol=1e-11)


def test_the_state_holds_each_features_largest_logarithm(qkv: Draw) -> None:
    q, k, v = qkv(spread=100.0)
    _, state = linear_attention_chunk(q, k, v, causal=True, log_space=True, chunk_size=4)
    assert state.log_scale is not None
    assert torch.equal(state.log_scale, k.amax(2))
    assert state.k.min() >= 1 - 1e-12


@pytest.mark.parametrize("chunk_size", [5, 16, 40])
def test_keys_above_the_headroom_are_summed_as_exactly_as_the_rest(
    qkv: Draw, monkeypatch: pytest.MonkeyPatch, chunk_size: int
) -> None:
    monkeypatch.setitem(HEADROOM, torch.float64, 0.5)
    mask = torch.arange(40) > torch.tensor([[3], [17]])
    results = []
    for attention in (linear_attention_naive, partial(linear_attention_chunk, chunk_size=chunk_size)):
        leaves = [tensor.clone().requires_grad_() for tensor in qkv(h=4, hk=2, n=40, spread=3.0)]
        output: Any = attention(*leaves, causal=True, log_space=True, key_padding_mask=mask)
        output = output if isinstance(output, Tensor) else output[0]
        results.append([output, *torch.autograd.grad(output.sin().sum(), leaves)])
    for got, exact in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, exact, rtol=1e-9, atol=1e-12)

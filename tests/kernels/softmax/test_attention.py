import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from hedgebench.kernels.choice import KernelChoice
from hedgebench.kernels.softmax.attention import (
    SoftmaxAttentionResult,
    softmax_attention,
    softmax_attention_weights,
)

Draw = Callable[..., tuple[Tensor, Tensor, Tensor]]
naive: Callable[..., SoftmaxAttentionResult] = partial(softmax_attention, backend="naive")

CASES: dict[str, dict[str, Any]] = {
    "causal": {"causal": True},
    "bidirectional": {"causal": False},
    "scaled": {"causal": True, "scale": 0.3},
    "window": {"causal": True, "window": 4},
    "masked": {"causal": True, "key_padding_mask": True},
    "masked_bidirectional": {"causal": False, "key_padding_mask": True},
}


def with_mask(options: dict[str, Any], tokens: int) -> dict[str, Any]:
    if "key_padding_mask" not in options:
        return options
    mask = torch.ones(2, tokens, dtype=torch.bool)
    mask[0, :3] = False
    mask[1] = False
    return {**options, "key_padding_mask": mask}


def test_equal_keys_give_the_mean_of_values(qkv: Draw) -> None:
    q, k, v = qkv()
    output = naive(q, torch.ones_like(k), v, causal=False).output
    torch.testing.assert_close(output, v.mean(2, keepdim=True).expand_as(output))


def test_weights_of_a_known_row() -> None:
    q = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    k = torch.tensor([[math.log(3.0), 5.0], [0.0, -5.0]]).view(1, 1, 2, 2)
    assert softmax_attention_weights(q, k, causal=False, scale=1.0).flatten().tolist() == pytest.approx([0.75, 0.25])


def test_weights_are_scaled_by_the_root_of_the_head_size(qkv: Draw) -> None:
    q, k, _ = qkv(f=16)
    expected = (q @ k.mT / 4).masked_fill(~torch.ones(13, 13, dtype=torch.bool).tril(), -torch.inf).softmax(-1)
    torch.testing.assert_close(softmax_attention_weights(q, k, causal=True), expected)


@pytest.mark.parametrize("backend", ["auto", "sdpa_math"])
@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("queries", [13, 5, 1])
@pytest.mark.parametrize("case", CASES)
def test_sdpa_matches_naive_in_outputs_and_gradients(
    qkv: Draw, case: str, queries: int, heads: int, backend: str
) -> None:
    tensors = qkv(n=queries, m=13, hk=heads, f=8, dv=8)
    options = with_mask(CASES[case], 13)
    results = []
    for asked in ("naive", backend):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        output = softmax_attention(*leaves, **options, backend=asked).output
        results.append([output, *torch.autograd.grad(output.sin().sum(), leaves)])
    for got, expected in zip(results[1], results[0], strict=True):
        assert got.isfinite().all()
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)


def test_rows_without_keys_are_zero(qkv: Draw) -> None:
    q, k, v = qkv()
    options = with_mask(CASES["masked"], 13)
    for backend in ("naive", "auto"):
        output = softmax_attention(q, k, v, **options, backend=backend).output
        assert output[0, :, :3].abs().max() == 0
        assert output[1].abs().max() == 0
        assert output[0, :, 3:].abs().min() > 0


def test_the_backend_that_ran_is_the_one_named(qkv: Draw) -> None:
    q, k, v = qkv(f=8, dv=8, dtype=torch.float32)
    for asked in ("auto", "sdpa_flash", "sdpa_math"):
        with torch.profiler.profile() as profile:
            ran = softmax_attention(q, k, v, causal=True, backend=asked).kernel.backend
        assert asked in ("auto", ran)
        operators = {event.key for event in profile.key_averages()}
        assert any("flash_attention" in operator for operator in operators) == (ran == "sdpa_flash")


def test_values_of_another_size_are_recorded_as_the_backend_that_can_take_them(qkv: Draw) -> None:
    q, k, v = qkv(f=8, dv=4)
    result = softmax_attention(q, k, v, causal=True)
    assert result.kernel.backend == "sdpa_math"
    torch.testing.assert_close(result.output, naive(q, k, v, causal=True).output)


def test_large_logits_do_not_overflow(qkv: Draw) -> None:
    q, k, _ = qkv(spread=1e4, dtype=torch.float32)
    weights = softmax_attention_weights(q, k, causal=True)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


def test_half_precision_weights_are_float32(qkv: Draw) -> None:
    q, k, v = qkv(dtype=torch.bfloat16)
    assert softmax_attention_weights(q, k, causal=True).dtype == torch.float32
    assert naive(q, k, v, causal=True).output.dtype == torch.bfloat16


def test_errors_name_what_was_given_and_what_is_allowed(qkv: Draw) -> None:
    with pytest.raises(ValueError, match=r"'sdpa_flesh'; did you mean sdpa_flash.*sdpa_flash, sdpa_math"):
        softmax_attention(*qkv(), causal=True, backend="sdpa_flesh")
    with pytest.raises(ValueError, match="3 kv heads do not divide 4"):
        naive(*qkv(hk=3), causal=True)


@pytest.mark.parametrize(("backend", "ran"), [("naive", "naive"), ("sdpa_math", "sdpa_math"), ("auto", "sdpa_flash")])
def test_softmax_says_which_backend_ran(qkv: Draw, backend: str, ran: str) -> None:
    tensors = qkv(f=8, dv=8)
    result = softmax_attention(*tensors, causal=True, backend=backend)
    assert result.kernel == KernelChoice("softmax", ran)
    torch.testing.assert_close(result.output, naive(*tensors, causal=True).output)

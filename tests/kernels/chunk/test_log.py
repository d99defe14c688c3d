"""The logarithm of linear attention's normaliser, against sums over all pairs in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hedgebench.kernels.chunk.attention import linear_attention_and_log, linear_attention_chunk
from hedgebench.kernels.linear.naive import linear_attention_weights_and_log
from hedgebench.kernels.state import EMPTY_LOG

Draw = Callable[..., tuple[Tensor, Tensor, Tensor]]


def log_scores(q: Tensor, k: Tensor) -> Tensor:
    """log Σ_f exp(q + k) of every visible pair, -inf elsewhere."""
    groups, late = q.shape[1] // k.shape[1], k.shape[2] - q.shape[2]
    scores = (q[:, :, :, None] + k.repeat_interleave(groups, 1)[:, :, None]).logsumexp(-1)
    return scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1 + late), -torch.inf)


@pytest.mark.parametrize("log_space", [False, True])
@pytest.mark.parametrize(("n", "m", "hk"), [(1, 1, 4), (13, 13, 4), (137, 137, 2), (5, 13, 1)])
def test_output_and_logarithm_are_those_of_all_pairs(qkv: Draw, n: int, m: int, hk: int, log_space: bool) -> None:
    q, k, v = qkv(n=n, m=m, hk=hk, spread=30.0 if log_space else 1.0)
    scores = log_scores(q, k)
    tensors = (q, k, v) if log_space else (q.exp(), k.exp(), v)
    output, log_sum, _ = linear_attention_and_log(*tensors, causal=True, log_space=log_space)
    torch.testing.assert_close(log_sum, scores.logsumexp(-1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(output, scores.softmax(-1) @ v.repeat_interleave(4 // hk, 1), rtol=1e-11, atol=1e-11)
    weights, log_sum = linear_attention_weights_and_log(*tensors[:2], causal=True, log_space=log_space)
    torch.testing.assert_close(log_sum, scores.logsumexp(-1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(weights, scores.softmax(-1), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("log_space", [False, True])
@pytest.mark.parametrize("n", [1, 6])
def test_gradients_of_the_logarithm_are_right(qkv: Draw, n: int, log_space: bool) -> None:
    q, k, v = qkv(b=1, h=2, hk=1, n=n, f=2, dv=2)
    tensors = (q, k, v) if log_space else (q.exp(), k.exp(), v)

    def both(*leaves: Tensor) -> tuple[Tensor, ...]:
        return linear_attention_and_log(*leaves, causal=True, log_space=log_space)[:2]

    assert torch.autograd.gradcheck(both, [tensor.clone().requires_grad_() for tensor in tensors])


@pytest.mark.parametrize("log_space", [False, True])
def test_going_on_from_a_state_one_token_at_a_time_equals_the_whole(qkv: Draw, log_space: bool) -> None:
    q, k, v = qkv(hk=2, spread=20.0 if log_space else 1.0)
    tensors = (q, k, v) if log_space else (q.exp(), k.exp(), v)
    whole = linear_attention_and_log(*tensors, causal=True, log_space=log_space)
    state, parts = None, []
    for t in range(13):
        q, k, v = (tensor[:, :, t : t + 1] for tensor in tensors)
        output, log_sum, state = linear_attention_and_log(
            q, k, v, causal=True, log_space=log_space, initial_state=state
        )
        parts.append((output, log_sum))
    torch.testing.assert_close(torch.cat([p[0] for p in parts], 2), whole[0], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(torch.cat([p[1] for p in parts], 2), whole[1], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("log_space", [False, True])
def test_a_row_without_keys_is_zero_and_its_logarithm_empty(qkv: Draw, log_space: bool) -> None:
    tensors = [tensor.abs().requires_grad_() for tensor in qkv(dtype=torch.float32)]
    mask = torch.arange(13) > torch.tensor([[2], [-1]])
    output, log_sum, _ = linear_attention_and_log(*tensors, causal=True, log_space=log_space, key_padding_mask=mask)
    assert not output[0, :, :3].any()
    assert (log_sum[0, :, :3] <= EMPTY_LOG).all()
    assert (log_sum[0, :, 3:].abs() < 100).all()
    assert (log_sum[1].abs() < 100).all()
    gradients = torch.autograd.grad(output.sum() + log_sum.sum(), tensors)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_half_precision_comes_out_in_float32_and_rounds_to_the_forms_own_output(qkv: Draw) -> None:
    q, k, v = qkv(dtype=torch.bfloat16)
    output, log_sum, _ = linear_attention_and_log(q, k, v, causal=True, log_space=True)
    assert output.dtype == log_sum.dtype == torch.float32
    assert torch.equal(output.bfloat16(), linear_attention_chunk(q, k, v, causal=True, log_space=True)[0])

"""Softmax over a sliding window in blocks, against a softmax over a full matrix in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hedgebench.kernels.softmax.window import MINIMUM_BLOCK, window_attention, window_attention_weights
from hedgebench.kernels.state import EMPTY_LOG

Draw = Callable[..., tuple[Tensor, Tensor, Tensor]]


def oracle(
    q: Tensor, k: Tensor, v: Tensor, *, window: int, mask: Tensor | None = None, scale: float | None = None
) -> list[Tensor]:
    """Output, log-sum-exp and maximum by the definition, for rows that see a key."""
    n, m, groups = q.shape[2], k.shape[2], q.shape[1] // k.shape[1]
    z = q @ k.repeat_interleave(groups, 1).mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    distance = torch.arange(m - n, m)[:, None] - torch.arange(m)
    hidden = (distance < 0) | (distance >= window)
    if mask is not None:
        hidden = hidden | ~mask[:, None, None]
    z = z.masked_fill(hidden, -torch.inf)
    return [z.softmax(-1) @ v.repeat_interleave(groups, 1), z.logsumexp(-1), z.amax(-1)]


def test_a_window_of_one_token_gives_its_value_and_its_score(qkv: Draw) -> None:
    q, k, v = qkv(f=4)
    output, log_sum, maximum = window_attention(q, k, v, window=1)
    torch.testing.assert_close(output, v)
    torch.testing.assert_close(log_sum, (q * k).sum(-1) / 2)
    torch.testing.assert_close(maximum, (q * k).sum(-1) / 2)


def test_equal_keys_give_the_mean_of_the_last_values_and_the_logarithm_of_their_number(qkv: Draw) -> None:
    q, k, v = qkv(n=5)
    output, log_sum, maximum = window_attention(q, k * 0, v, window=2)
    torch.testing.assert_close(output[:, :, 1:], (v[:, :, 1:] + v[:, :, :-1]) / 2)
    torch.testing.assert_close(log_sum.exp()[0, 0], torch.tensor([1.0, 2, 2, 2, 2], dtype=torch.float64))
    assert not maximum.any()


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("hk", [4, 2, 1])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 9), (7, 7), (5, 12), (131, 131), (129, 150)])
@pytest.mark.parametrize("window", [1, 3, 16, 70, 500])
def test_it_matches_the_full_matrix_in_outputs_and_gradients(
    qkv: Draw, window: int, n: int, m: int, hk: int, scale: float | None
) -> None:
    results = []
    for attention in (oracle, window_attention):
        leaves = [tensor.clone().requires_grad_() for tensor in qkv(n=n, m=m, hk=hk, f=4)]
        parts = list(attention(*leaves, window=window, scale=scale))
        results.append([*parts, *torch.autograd.grad(torch.stack([part.sin().sum() for part in parts]).sum(), leaves)])
    for got, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-11)


def test_blocks_do_not_matter(qkv: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = qkv(n=2 * MINIMUM_BLOCK + 1, hk=2)
    expected = window_attention(q, k, v, window=3)
    for block in (1, 5, 1000):
        monkeypatch.setattr("hedgebench.kernels.softmax.window.MINIMUM_BLOCK", block)
        torch.testing.assert_close(window_attention(q, k, v, window=3), expected, rtol=1e-12, atol=1e-12)


def test_padded_tokens_are_not_seen_even_where_they_are_nonsense(qkv: Draw) -> None:
    q, k, v = qkv(n=80, hk=2)
    mask = torch.rand(2, 80, generator=torch.Generator().manual_seed(1)) > 0.4
    mask[0, :20] = False
    expected = oracle(q, k, v, window=6, mask=mask)
    k, v = (tensor.masked_fill(~mask[:, None, :, None], torch.nan).requires_grad_() for tensor in (k, v))
    q.requires_grad_()
    output, log_sum, maximum = window_attention(q, k, v, window=6, key_padding_mask=mask)
    sees = expected[1].isfinite()
    assert 0 < (~sees).sum() < sees.numel()
    torch.testing.assert_close(output[sees], expected[0][sees], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(log_sum[sees], expected[1][sees], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(maximum[sees], expected[2][sees], rtol=1e-11, atol=1e-12)
    assert not output[~sees].any()
    assert not maximum[~sees].any()
    assert (log_sum[~sees] <= EMPTY_LOG / 2).all()
    gradients = torch.autograd.grad(output.sum() + log_sum.sum() + maximum.sum(), (q, k, v))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_weights_sum_the_values_to_the_output(qkv: Draw) -> None:
    q, k, v = qkv(n=9, hk=2)
    weights, log_sum, maximum = window_attention_weights(q, k, window=4)
    output, *rest = window_attention(q, k, v, window=4)
    torch.testing.assert_close(weights @ v.repeat_interleave(2, 1), output)
    torch.testing.assert_close([log_sum, maximum], rest)
    assert not weights.triu(1).any()
    assert not weights.tril(-4).any()


@pytest.mark.parametrize("spread", [1.0, 300.0])
def test_the_future_does_not_change_one_bit_of_the_past(qkv: Draw, spread: float) -> None:
    tensors = qkv(n=150, spread=spread, dtype=torch.float32)
    before = window_attention(*tensors, window=10)
    for tensor in tensors:
        tensor[:, :, 90:] = 1000.0
    after = window_attention(*tensors, window=10)
    assert torch.equal(after.rows[:, :, :90], before.rows[:, :, :90])
    assert torch.equal(after.log_sum[:, :, :90], before.log_sum[:, :, :90])


def test_half_precision_is_summed_in_float32(qkv: Draw) -> None:
    tensors = [tensor.bfloat16() for tensor in qkv(n=100)]
    got = window_attention(*tensors, window=40)
    for part, exact in zip(got, oracle(*(tensor.double() for tensor in tensors), window=40), strict=True):
        assert part.dtype == torch.float32
        torch.testing.assert_close(part.double(), exact, rtol=1e-5, atol=1e-5)


def test_it_never_holds_a_score_for_every_pair(qkv: Draw) -> None:
    q, k, v = qkv(b=1, h=1, hk=1, n=2048, dtype=torch.float32)
    largest = 0

    class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.numel())
            return out

    with Largest():  # type: ignore[no-untyped-call]
        window_attention(q, k, v, window=64)
    assert largest <= 2048 * 8


@pytest.mark.parametrize(
    ("sizes", "window", "message"),
    [({"hk": 3}, 2, "3 kv heads"), ({"n": 5, "m": 4}, 2, "5 queries, 4 keys"), ({}, 0, "window=0")],
)
def test_what_cannot_be_is_refused(qkv: Draw, sizes: dict[str, int], window: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        window_attention(*qkv(**sizes), window=window)

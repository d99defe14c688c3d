"""Properties of the chunked form: what its answer may not depend on."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hedgebench.kernels.chunk.attention import linear_attention_chunk
from hedgebench.kernels.linear.naive import linear_attention_naive

Draw = Callable[..., tuple[Tensor, Tensor, Tensor]]


sizes = st.integers(1, 40)
spreads = st.sampled_from([0.1, 1.0, 20.0, 150.0])


def draw(n: int, spread: float, seed: int, log_space: bool, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(1, 2, n, size, generator=generator, dtype=torch.float64) for size in (4, 4, 3))
    if log_space:
        return [(q * spread).to(dtype), (k * spread).to(dtype), v.to(dtype)]
    return [q.exp().to(dtype), k.exp().to(dtype), v.to(dtype)]


@settings(max_examples=40, deadline=None)
@given(n=sizes, chunk_size=sizes, spread=spreads, log_space=st.booleans(), seed=st.integers(0, 99))
def test_chunk_size_does_not_matter(n: int, chunk_size: int, spread: float, log_space: bool, seed: int) -> None:
    tensors = draw(n, spread, seed, log_space)
    output, state = linear_attention_chunk(*tensors, causal=True, log_space=log_space, chunk_size=chunk_size)
    whole, whole_state = linear_attention_chunk(*tensors, causal=True, log_space=log_space, chunk_size=n)
    torch.testing.assert_close(output, whole, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(state.kv, whole_state.kv, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(state.k, whole_state.k, rtol=1e-11, atol=1e-11)


@settings(max_examples=40, deadline=None)
@given(n=sizes, at=sizes, spread=spreads, log_space=st.booleans(), seed=st.integers(0, 99))
def test_stopping_and_resuming_equals_going_through(n: int, at: int, spread: float, log_space: bool, seed: int) -> None:
    tensors = draw(n + at, spread, seed, log_space)
    options: dict[str, Any] = {"causal": True, "log_space": log_space, "chunk_size": 8}
    whole, _ = linear_attention_chunk(*tensors, **options)
    first, state = linear_attention_chunk(*(tensor[:, :, :at] for tensor in tensors), **options)
    second, _ = linear_attention_chunk(*(tensor[:, :, at:] for tensor in tensors), initial_state=state, **options)
    torch.testing.assert_close(torch.cat([first, second], dim=2), whole, rtol=1e-11, atol=1e-11)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 80),
    cut=st.floats(0, 1, exclude_max=True),
    spread=spreads,
    future=st.sampled_from([-200.0, 0.0, 60.0, 200.0]),
    log_space=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_future_does_not_change_one_bit_of_the_past(
    n: int, cut: float, spread: float, future: float, log_space: bool, seed: int
) -> None:
    seen = 1 + int(cut * (n - 1))
    tensors = draw(n, spread, seed, log_space, torch.float32)
    options: dict[str, Any] = {"causal": True, "log_space": log_space, "chunk_size": 32}
    before, _ = linear_attention_chunk(*tensors, **options)
    for tensor in tensors:
        tensor[:, :, seen:] = future if log_space else abs(future)
    after, _ = linear_attention_chunk(*tensors, **options)
    assert torch.equal(after[:, :, :seen], before[:, :, :seen])


@settings(max_examples=30, deadline=None)
@given(n=sizes, left=st.integers(0, 20), right=st.integers(0, 20), log_space=st.booleans(), seed=st.integers(0, 99))
def test_padding_left_and_right_changes_nothing(n: int, left: int, right: int, log_space: bool, seed: int) -> None:
    tensors = draw(n, 20.0, seed, log_space)
    options: dict[str, Any] = {"causal": True, "log_space": log_space, "chunk_size": 8}
    expected, state = linear_attention_chunk(*tensors, **options)
    padded = [torch.nn.functional.pad(tensor, (0, 0, left, right), value=99.0) for tensor in tensors]
    mask = torch.zeros(1, left + n + right, dtype=torch.bool)
    mask[:, left : left + n] = True
    output, padded_state = linear_attention_chunk(*padded, key_padding_mask=mask, **options)
    torch.testing.assert_close(output[:, :, left : left + n], expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(padded_state.kv, state.kv, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("log_space", [False, True])
def test_the_same_call_gives_the_same_bits(log_space: bool) -> None:
    tensors = draw(300, 1.0, 0, log_space, torch.float32)
    one, _ = linear_attention_chunk(*tensors, causal=True, log_space=log_space)
    other, _ = linear_attention_chunk(*tensors, causal=True, log_space=log_space)
    assert torch.equal(one, other)


@pytest.mark.parametrize("log_space", [False, True])
def test_a_state_also_continues_a_call_that_is_not_causal(log_space: bool) -> None:
    q, k, v = draw(20, 20.0, 0, log_space)
    options: dict[str, Any] = {"causal": False, "log_space": log_space}
    _, state = linear_attention_chunk(q[:, :, :7], k[:, :, :7], v[:, :, :7], **options)
    output, _ = linear_attention_chunk(q, k[:, :, 7:], v[:, :, 7:], initial_state=state, **options)
    torch.testing.assert_close(output, linear_attention_naive(q, k, v, **options), rtol=1e-11, atol=1e-11)


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
        linear_attention_chunk(q, k, v, causal=True, log_space=True)
    assert largest <= 128 * 128


def test_a_chunk_of_no_tokens_is_an_error(qkv: Draw) -> None:
    with pytest.raises(ValueError, match="got 0"):
        linear_attention_chunk(*qkv(), causal=True, chunk_size=0)


def test_a_state_of_the_wrong_space_is_an_error(qkv: Draw) -> None:
    _, state = linear_attention_chunk(*qkv(), causal=True, log_space=True)
    with pytest.raises(ValueError, match=r"has a log_scale.*log_space=False"):
        linear_attention_chunk(*qkv(), causal=True, initial_state=state)

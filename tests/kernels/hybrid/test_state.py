"""Going on from a state: any split of a sequence is the whole, and the state is bounded."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hedgebench.kernels.hybrid.attention import hybrid_attention
from hedgebench.kernels.hybrid.state import HybridState

Draw = Callable[..., tuple[Tensor, Tensor, Tensor]]

BOTH_SPACES = pytest.mark.parametrize("log_space", [False, True])


def log_map(x: Tensor, positions: Tensor) -> Tensor:
    """Log features that depend on the token's position too."""
    return torch.cat([x, -x], dim=-1) + positions[:, None, :, None].to(x.dtype).sin()


def bounded_map(x: Tensor, positions: Tensor) -> Tensor:
    """Features between 0 and 1."""
    return log_map(x, positions).softmax(-1)


def attend(q: Tensor, k: Tensor, v: Tensor, *, log_space: bool, **options: Any) -> Any:
    positions = options.pop("positions", torch.arange(k.shape[2]).expand(len(k), -1))
    feature_map = log_map if log_space else bounded_map
    return hybrid_attention(
        q,
        k,
        v,
        feature_map(q, positions),
        feature_map,
        gate_log=torch.linspace(-3, -0.1, q.shape[1], dtype=q.dtype),
        positions=positions,
        log_space=log_space,
        shift_window=not log_space,
        **options,
    )


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    window=st.integers(1, 20),
    log_space=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    padded=st.integers(0, 9),
    seed=st.integers(0, 99),
)
def test_any_split_of_a_sequence_equals_the_whole(
    pieces: list[int], window: int, log_space: bool, dtype: torch.dtype, padded: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    n = sum(pieces)
    q, k, v = (torch.randn(2, h, n, 4, generator=generator).to(dtype) for h in (4, 2, 2))
    mask = torch.arange(n) >= torch.tensor([[min(padded, n - 1)], [0]]) if padded else None
    positions = torch.arange(n) - torch.tensor([[padded], [0]])
    options: dict[str, Any] = {"window": window, "log_space": log_space}
    whole = attend(q, k, v, positions=positions, key_padding_mask=mask, **options).output
    state, parts, start = None, [], 0
    for size in pieces:
        part = slice(start, start + size)
        result = attend(
            *(tensor[:, :, part] for tensor in (q, k, v)),
            positions=positions[:, part],
            key_padding_mask=None if mask is None or not (~mask[:, part]).any() else mask[:, part],
            initial_state=state,
            return_state=True,
            **options,
        )
        state, start = result.state, start + size
        parts.append(result.output)
        assert state.tokens == min(window, start)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-11
    torch.testing.assert_close(torch.cat(parts, 2), whole, rtol=tolerance, atol=tolerance)


@BOTH_SPACES
def test_gradients_through_a_carried_state_match_the_whole(qkv: Draw, log_space: bool) -> None:
    def in_three_parts(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        state, parts = None, []
        for part in (slice(0, 2), slice(2, 12), slice(12, 13)):
            result = attend(
                *(tensor[:, :, part] for tensor in (q, k, v)),
                positions=torch.arange(13)[part].expand(2, -1),
                initial_state=state,
                return_state=True,
                **options,
            )
            state = result.state
            parts.append(result.output)
        return torch.cat(parts, dim=2)

    def at_once(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        output: Tensor = attend(q, k, v, **options).output
        return output

    gradients = []
    for attention in (at_once, in_three_parts):
        leaves = [tensor.clone().requires_grad_() for tensor in qkv(hk=2)]
        output = attention(*leaves, window=3, log_space=log_space)
        gradients.append(torch.autograd.grad(output.sin().sum(), leaves))
    for got, expected in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


@BOTH_SPACES
def test_the_state_has_the_same_size_and_memory_after_any_number_of_tokens(qkv: Draw, log_space: bool) -> None:
    def held(state: HybridState) -> int:
        assert state.linear is not None
        tensors = (state.keys, state.values, state.positions, state.mask, *vars(state.linear).values())
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors if tensor is not None)

    sizes = set()
    for n in (17, 64, 4096):
        q, k, v = qkv(b=1, h=2, hk=1, n=n, f=4, dtype=torch.float32)
        state = attend(q, k, v, window=16, log_space=log_space, return_state=True).state
        sizes.add((state.bytes, held(state)))
    # 16 tokens of 4 + 3 floats and a position; 8 features of 3 sums, a normaliser and, in log space, a maximum.
    expected = 16 * (7 * 4 + 8) + 8 * (3 + 1 + log_space) * 4
    assert {bytes for bytes, _ in sizes} == {expected}
    assert all(memory <= expected + 8 * 4 * 4 for _, memory in sizes)


def test_a_state_that_does_not_fit_is_refused(qkv: Draw) -> None:
    tensors = qkv()
    state = attend(*tensors, window=4, log_space=True, return_state=True).state
    for window in (3, 5):
        with pytest.raises(ValueError, match=f"holds 4 tokens, which does not fit window={window}"):
            attend(*tensors, window=window, log_space=True, initial_state=state)
    with pytest.raises(ValueError, match="has a log_scale"):
        attend(*tensors, window=4, log_space=False, initial_state=state)

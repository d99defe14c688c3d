"""Properties of linear attention in parts: chunks, sequences cut in two, packed sequences, and decoding."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hedgebench.kernels.choice import LinearAttentionResult
from hedgebench.kernels.dispatch import linear_attention
from hedgebench.kernels.hedgehog import chunk_hedgehog_attn, chunk_linear_attn, fused_recurrent_hedgehog_attn
from hedgebench.kernels.maps.learned import HEDGEHOG_MAPS
from hedgebench.kernels.state import LinearState, empty_state

from .property_calls import Call, calls, repeatable

MAPS = (*HEDGEHOG_MAPS, "features", "log_features")
every_map = pytest.mark.parametrize("name", MAPS)

SEVERAL = st.one_of(st.integers(2, 9), st.integers(126, 132))


def attend(name: str, call: Call, state: LinearState | None = None, **options: Any) -> LinearAttentionResult:
    """Runs a public call of linear attention and asks for its state."""
    options |= {"key_padding_mask": call.mask, "initial_state": state, "output_final_state": True}
    if name in HEDGEHOG_MAPS:
        return chunk_hedgehog_attn(*call[:5], feature_map=name, **options)
    q, k, v = (call.q, call.k, call.v) if name == "log_features" else (call.q.abs(), call.k.abs(), call.v)
    return chunk_linear_attn(q, k, v, log_space=name == "log_features", **options)


def state_of(result: LinearAttentionResult) -> LinearState:
    assert result.state is not None
    return result.state


def assert_same(got: Tensor, expected: Tensor) -> None:
    """Sums of large features need as much room as their largest."""
    room = 1e-10 * max(1.0, float(expected.abs().max())) if expected.numel() else 0.0
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=room)


def assert_same_state(got: LinearState, expected: LinearState) -> None:
    for one, other in zip(tensors_of(got), tensors_of(expected), strict=True):
        assert_same(one, other)


def tensors_of(state: LinearState) -> list[Tensor]:
    return [x for x in (state.kv, state.k, state.log_scale) if x is not None]


@every_map
@repeatable
@given(call=calls(SEVERAL), data=st.data())
def test_a_sequence_cut_in_two_is_the_whole(name: str, call: Call, data: st.DataObject) -> None:
    tokens = call.q.shape[2]
    cut = data.draw(st.integers(1, tokens - 1))
    whole = attend(name, call)
    first = attend(name, call.span(0, cut))
    second = attend(name, call.span(cut, tokens), first.state)
    assert_same(torch.cat([first.output, second.output], 2), whole.output)
    assert_same_state(state_of(second), state_of(whole))


@every_map
@repeatable
@given(call=calls(SEVERAL, batch=1), data=st.data())
def test_packed_sequences_are_separate_calls(name: str, call: Call, data: st.DataObject) -> None:
    tokens = call.q.shape[2]
    inner = data.draw(st.sets(st.integers(1, tokens - 1), max_size=3))
    ends = [0, *sorted(inner), tokens]
    packed = attend(name, call, cu_seqlens=torch.tensor(ends))
    alone = [attend(name, call.span(start, end)) for start, end in pairwise(ends)]
    assert_same(packed.output, torch.cat([part.output for part in alone], 2))
    for index, part in enumerate(alone):
        here = [x[index : index + 1] for x in tensors_of(state_of(packed))]
        for got, expected in zip(here, tensors_of(state_of(part)), strict=True):
            assert_same(got, expected)


@every_map
@repeatable
@given(call=calls(), chunk_size=st.sampled_from([1, 2, 5, 64, 128, 500]))
def test_the_size_of_chunks_does_not_matter(name: str, call: Call, chunk_size: int) -> None:
    log_space = name in ("exp", "log_features")
    q, k = call.features(name) if name in HEDGEHOG_MAPS else (call.q, call.k)
    q, k = (q, k) if log_space else (q.abs(), k.abs())
    options: dict[str, Any] = {"causal": True, "key_padding_mask": call.mask, "log_space": log_space, "form": "chunk"}
    one, other = (linear_attention(q, k, call.v, **options, chunk_size=size) for size in (chunk_size, 7))
    assert_same(one.output, other.output)
    assert_same_state(state_of(one), state_of(other))


@every_map
@repeatable
@given(call=calls(), seed=st.integers(0, 99))
def test_without_order_any_order_of_keys_gives_the_same(name: str, call: Call, seed: int) -> None:
    order = torch.randperm(call.k.shape[2], generator=torch.Generator().manual_seed(seed))
    mask = None if call.mask is None else call.mask[:, order]
    shuffled = call._replace(k=call.k[:, :, order], v=call.v[:, :, order], mask=mask)
    one, other = attend(name, call, causal=False), attend(name, shuffled, causal=False)
    assert_same(one.output, other.output)
    assert_same_state(state_of(one), state_of(other))


@pytest.mark.parametrize("feature_map", HEDGEHOG_MAPS)
@repeatable
@given(call=calls(st.integers(1, 9), masked=False), data=st.data(), normalize=st.booleans())
def test_decoding_in_place_is_the_whole(feature_map: str, call: Call, data: st.DataObject, normalize: bool) -> None:
    """A few tokens at a time, from the empty state on; logits are small where nothing divides by their sum."""
    if not normalize:
        call = call._replace(q=call.q.clamp(-2, 2), k=call.k.clamp(-2, 2))
    whole = attend(feature_map, call, normalize=normalize)
    width = 2 * call.k_weight.shape[-1]
    empty = empty_state(call.k.new_empty(*call.k.shape[:3], width), call.v, log_space=feature_map == "exp")
    parts, start = [], 0
    while start < call.q.shape[2]:
        part = call.span(start, start + data.draw(st.integers(1, 4)))
        decoded = fused_recurrent_hedgehog_attn(*part[:5], state=empty, feature_map=feature_map, normalize=normalize)
        parts.append(decoded.output)
        start += part.q.shape[2]
    assert_same(torch.cat(parts, 2), whole.output)
    assert_same_state(empty, state_of(whole))

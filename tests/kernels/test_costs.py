from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hedgebench.kernels.chunk.attention import linear_attention_chunk
from hedgebench.kernels.costs import (
    feature_map_cost,
    linear_attention_cost,
    linear_state_bytes,
    softmax_attention_cost,
    softmax_decode_cost,
)
from hedgebench.kernels.dispatch import linear_attention
from hedgebench.kernels.maps.learned import HedgehogMap
from hedgebench.kernels.softmax.attention import softmax_attention

Draw = Callable[..., tuple[Tensor, Tensor, Tensor]]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
@pytest.mark.parametrize("form", ["naive", "chunk", "recurrent"])
def test_flops_are_what_torch_counts(qkv: Draw, form: str, heads: tuple[int, int], causal: bool) -> None:
    h, hk = heads
    with FlopCounterMode(display=False) as counter:
        linear_attention(*qkv(h=h, hk=hk, n=21), causal=causal, form=form, chunk_size=8)
    cost = linear_attention_cost(form, b=2, h=h, hk=hk, n=21, f=5, dv=3, chunk=8, causal=causal)
    assert cost.flops == counter.get_total_flops()


def test_log_space_costs_the_same_products(qkv: Draw) -> None:
    with FlopCounterMode(display=False) as counter:
        linear_attention_chunk(*qkv(n=21), causal=True, log_space=True, chunk_size=8)
    assert linear_attention_cost("chunk", b=2, h=4, hk=4, n=21, f=5, dv=3, chunk=8).flops == counter.get_total_flops()


def test_softmax_flops_are_what_torch_counts_before_causality_halves_them(qkv: Draw) -> None:
    with FlopCounterMode(display=False) as counter:
        softmax_attention(*qkv(), causal=False, backend="naive")
    full = softmax_attention_cost(b=2, h=4, hk=4, n=13, d=5, dv=3, causal=False)
    assert full.flops == counter.get_total_flops()
    assert softmax_attention_cost(b=2, h=4, hk=4, n=13, d=5, dv=3).flops == full.flops // 2


def test_softmax_reads_queries_keys_and_values_and_writes_outputs_once(qkv: Draw) -> None:
    q, k, v = qkv()
    output = softmax_attention(q, k, v, causal=True, backend="naive").output
    cost = softmax_attention_cost(b=2, h=4, hk=4, n=13, d=5, dv=3, bytes_per_element=q.element_size())
    assert cost.bytes == sum(x.nbytes for x in (q, k, v, output))
    assert cost.state_bytes == k.nbytes + v.nbytes


def test_what_is_not_fused_moves_scores_and_weights_both_ways_and_is_not_halved() -> None:
    sizes: dict[str, Any] = {"b": 2, "h": 4, "hk": 4, "n": 13, "d": 5, "dv": 3}
    fused, found = softmax_attention_cost(**sizes), softmax_attention_cost(**sizes, fused=False)
    assert found.flops == softmax_attention_cost(**sizes, causal=False).flops
    assert found.bytes - fused.bytes == 4 * (2 * 4 * 13 * 13) * 4
    half = softmax_attention_cost(**sizes, bytes_per_element=2, fused=False)
    assert half.bytes - fused.bytes // 2 == found.bytes - fused.bytes  # scores are in float32 all the same


def test_features_in_cache_move_nothing() -> None:
    sizes: dict[str, Any] = {"b": 2, "h": 4, "hk": 2, "n": 256, "f": 16, "dv": 8}
    given, cached = (linear_attention_cost("chunk", **sizes, features_in_cache=kept) for kept in (False, True))
    assert given.bytes - cached.bytes == 2 * 256 * (4 + 2) * 16 * 4
    assert given.flops == cached.flops
    assert (
        feature_map_cost(b=1, heads=4, n=256, d=8, width=8, f=16, features_in_cache=True).bytes == 4 * 8 * (256 + 8) * 4
    )


def test_a_learned_maps_flops_are_what_torch_counts() -> None:
    with FlopCounterMode(display=False) as counter:
        HedgehogMap(3, 8)(torch.randn(2, 3, 7, 8))
    assert feature_map_cost(b=2, heads=3, n=7, d=8, width=8, f=16).flops == counter.get_total_flops()


@pytest.mark.parametrize("log_space", [False, True])
def test_state_bytes_are_those_of_the_state(qkv: Draw, log_space: bool) -> None:
    q, k, v = qkv(hk=2, dtype=torch.float32)
    _, state = linear_attention_chunk(q, k, v, causal=True, log_space=log_space)
    assert linear_state_bytes(b=2, hk=2, f=5, dv=3, log_space=log_space) == state.bytes


def test_a_state_of_64_by_128_takes_32_kib_and_its_normaliser() -> None:
    assert linear_state_bytes(b=1, hk=1, f=128, dv=64) == 32 * 1024 + 4 * 128


def test_forward_flops_per_token_are_twelve_d_squared_and_six_c_d() -> None:
    d, chunk, n = 64, 64, 1024
    attention = linear_attention_cost("chunk", b=1, h=1, hk=1, n=n, f=2 * d, dv=d, chunk=chunk).flops
    maps = 2 * feature_map_cost(b=1, heads=1, n=n, d=d, width=d, f=2 * d).flops
    row_sums = n * (4 * 2 * d + 2 * chunk)
    assert attention + maps - row_sums == n * (12 * d**2 + 6 * chunk * d)


def test_decoding_moves_the_state_twice() -> None:
    d = 64
    cost = linear_attention_cost("recurrent", b=1, h=1, hk=1, n=1, f=2 * d, dv=d)
    normaliser = 2 * 2 * d * 4
    token = (2 * d + 2 * d + d + d) * 4
    assert cost.bytes - normaliser - token == 16 * d**2


def test_softmax_decoding_reads_a_cache_that_grows() -> None:
    short, long = (softmax_decode_cost(b=1, h=8, hk=2, m=m, d=64, dv=64) for m in (1000, 2000))
    assert long.state_bytes == 2 * short.state_bytes == 2 * 1000 * 2 * 128 * 4
    assert long.bytes - short.bytes == short.state_bytes


def test_an_unknown_form_answers_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'chunks'.*did you mean chunk"):
        linear_attention_cost("chunks", b=1, h=1, hk=1, n=1, f=1, dv=1)

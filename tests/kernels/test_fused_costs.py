"""Counts of the fused kernels against a table worked out by hand for bfloat16."""

import pytest

from hedgebench.kernels.fused_costs import (
    distillation_cost,
    fused_backward_cost,
    fused_decode_cost,
    fused_forward_cost,
)


@pytest.mark.parametrize(
    ("form", "d", "flops", "moved"),
    [("fused_chunk", 64, 73_728, 512), ("fused_chunk", 128, 245_760, 1024), ("chunk", 64, 81_920, 896),
     ("chunk", 128, 278_528, 2048)],
)  # fmt: skip
def test_forward_counts_are_those_worked_out_by_hand(form: str, d: int, flops: int, moved: int) -> None:
    cost = fused_forward_cost(form, token_heads=1, d=d, dtype="bfloat16")
    assert (cost.flops, cost.bytes) == (flops, moved)


@pytest.mark.parametrize(("d", "flops", "moved"), [(64, 212_992, 1920), (128, 720_896, 4352)])
def test_backward_counts_are_those_worked_out_by_hand(d: int, flops: int, moved: int) -> None:
    cost = fused_backward_cost(token_heads=1, d=d, dtype="bfloat16")
    assert (cost.flops, cost.bytes) == (flops, moved)


def test_a_decoded_token_moves_its_state_both_ways() -> None:
    assert fused_decode_cost(heads=1, d=64).bytes == 2 * 4 * 128 * 64


def test_the_roofline_is_the_slower_of_products_and_memory() -> None:
    cost = fused_forward_cost("fused_chunk", token_heads=1000, d=64, dtype="bfloat16")
    assert cost.seconds(1e9, 1e30) == pytest.approx(cost.flops / 1e9)
    assert cost.seconds(1e30, 1e9) == pytest.approx(cost.bytes / 1e9)


@pytest.mark.parametrize(
    ("dtype", "moved"), [("bfloat16", 896), ("float16", 6 * 64 * 2 + 32 * 2 * 4), ("float32", 1792)]
)
def test_states_between_blocks_are_of_what_they_are_multiplied_in(dtype: str, moved: int) -> None:
    assert fused_forward_cost("chunk", token_heads=1, d=64, dtype=dtype).bytes == moved


def test_calls_one_after_another_add_up() -> None:
    forward = fused_forward_cost("chunk", token_heads=1, d=64, dtype="bfloat16")
    backward = fused_backward_cost(token_heads=1, d=64, dtype="bfloat16")
    both = forward + backward
    assert (both.flops, both.bytes) == (81_920 + 212_992, 896 + 1920)


def test_distillation_is_quadratic_in_products_and_linear_in_traffic() -> None:
    cost = distillation_cost(pairs=1000, token_heads=44, d=64)
    assert (cost.flops, cost.bytes) == (1000 * 2048, 44 * 2560)

"""Shapes of the kernel benchmarks."""

from __future__ import annotations

import pytest

from hedgebench.tasks.kernel_speed.shapes import SHAPES, KernelShape, parse_shapes


def test_shapes_are_read_as_they_are_written() -> None:
    assert parse_shapes("4x2048x16x128") == (KernelShape(4, 2048, 16, 128),)
    assert parse_shapes("1x8x2x16+fla")[1:] == SHAPES["fla"]


def test_a_shape_named_twice_is_timed_once() -> None:
    assert len(parse_shapes("fla+1x8192x96x128")) == 6


@pytest.mark.parametrize("head_dim", [64, 128])
def test_the_sweep_keeps_tokens_and_columns_until_one_sequence_is_longer(head_dim: int) -> None:
    shapes = SHAPES[f"sweep{head_dim}"]
    assert [shape.tokens for shape in shapes] == [2**power for power in range(9, 18)]
    assert all(shape.heads * shape.head_dim == 2048 for shape in shapes)
    assert all(shape.batch * shape.tokens == max(16384, shape.tokens) for shape in shapes)


@pytest.mark.parametrize("text", ["", "flaa", "4x2048x16", "0x8x2x16", "1x8x2x16+", "1x8x2xd"])
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"join fla, sweep64, sweep128 or shapes such as 4x2048x16x128"):
        parse_shapes(text)

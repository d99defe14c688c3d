"""Elements that lie past 2³¹ of their tensor's first: in the interpreter, in memory that is asked for and not touched.

A tensor of few elements with strides of 2³¹ takes 4 GiB of addresses and a page of memory for each element that is
read. 32-bit products of strides would wrap around to other addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from hedgebench.kernels.fused.gradients import backward
from hedgebench.kernels.fused.launch import decode, forward
from hedgebench.kernels.hybrid.launch import hybrid_backward, hybrid_forward
from hedgebench.kernels.triton.tiles import Tiles, interpreting

from ..fused_cases import Case, draw, single
from ..hybrid.test_launch import Case as HybridCase
from ..hybrid.test_launch import draw as draw_hybrid
from ..hybrid.test_launch import single as single_hybrid

pytestmark = pytest.mark.skipif(not interpreting(), reason="on a GPU the suite marked gpu runs these kernels")

FAR = 2**31
"""Elements between two of an axis."""

TILES = Tiles(chunk=16, block=32, values=16, warps=4, backward_warps=4, stages=1)


def far_apart(near: Tensor, axis: int) -> Tensor:
    """Gives a copy whose last index of an axis starts 2³¹ elements, or a little more, after its first."""
    count = near.shape[axis]
    step = FAR if count == 2 else -(-FAR // (count - 1))
    inner = near.shape[1:]
    strides = [inner[0] * inner[1] * inner[2], inner[1] * inner[2], inner[2], 1]
    strides[axis] = step
    others = sum((size - 1) * stride for size, stride in zip(near.shape, strides, strict=True)) + 1
    far = torch.empty(others, dtype=near.dtype).as_strided(near.shape, strides)
    return far.copy_(near)


AXES = {"batch": 0, "head": 1, "token": 2}


def sized(axis: str) -> dict[str, Any]:
    """Two of an axis and one of the others; of tokens a tile and one more where they are far apart, else a few."""
    heads = 2 if axis == "head" else 1
    return {"b": 2 if axis == "batch" else 1, "h": heads, "hk": heads, "n": 17 if axis == "token" else 7}


def assert_same(run: Callable[[Callable[[Tensor], Tensor]], tuple[Tensor, ...]], axis: str) -> None:
    """Holds what a call gives for tensors placed far apart to what it gives for them side by side."""
    near, far = run(lambda x: x), run(lambda x: far_apart(x, AXES[axis]))
    assert all(torch.equal(one, other) for one, other in zip(near, far, strict=True))


@pytest.mark.parametrize("form", ["chunk", "fused_chunk", "wide"])
@pytest.mark.parametrize("axis", AXES)
def test_linear_attention_reaches_past_two_to_the_31(axis: str, form: str) -> None:
    case = Case("identity", d=260, **sized(axis)) if form == "wide" else Case("exp", form=form, **sized(axis))
    near = replace(single(draw(case), torch.float16), tiles=TILES)

    def run(place: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        call = replace(near, q=place(near.q), k=place(near.k), v=place(near.v))
        ran = forward(call)
        found = backward(call, ran, place(ran.output))
        maps = [found[name] for name in ("q_weight",) if name in found]
        return ran.output, ran.final.kv, found["q"], found["k"], found["v"], *maps

    assert_same(run, axis)


@pytest.mark.parametrize("axis", AXES)
def test_decoding_reaches_past_two_to_the_31(axis: str) -> None:
    case = Case("exp", state=True, **{**sized(axis), "n": 3})
    near = single(draw(case), torch.float16)

    def run(place: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        ran = decode(replace(near, q=place(near.q), k=place(near.k), v=place(near.v)))
        return ran.output, ran.final.kv, ran.final.k

    assert_same(run, axis)


@pytest.mark.parametrize("axis", AXES)
def test_the_hybrid_reaches_past_two_to_the_31(axis: str) -> None:
    sizes = sized(axis)
    near = replace(single_hybrid(draw_hybrid(HybridCase(window=5, **sizes))), tiles=TILES)

    def run(place: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        far: dict[str, Any] = {name: place(getattr(near, name).half()) for name in ("q", "k", "v", "far_q", "far_k")}
        call = replace(near, **far)
        rows, final = hybrid_forward(call)
        return rows.output, final.kv, *hybrid_backward(call, rows, place(rows.output)).values()

    assert_same(run, axis)

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
from hedgebench.kernels.fused.operands import fused_call
from hedgebench.kernels.hybrid.launch import hybrid_backward, hybrid_forward
from hedgebench.kernels.hybrid.tensors import HybridOptions, HybridTensors
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


def sized(axis: str, tokens: int = 17) -> dict[str, Any]:
    """Two of an axis and one of the others; of tokens always some."""
    heads = 2 if axis == "head" else 1
    return {"b": 2 if axis == "batch" else 1, "h": heads, "hk": heads, "n": tokens}


def assert_same(run: Callable[[Callable[[Tensor], Tensor]], tuple[Tensor, ...]], axis: str) -> None:
    """Holds what a call gives for tensors placed far apart to what it gives for them side by side."""
    near, far = run(lambda x: x), run(lambda x: far_apart(x, AXES[axis]))
    assert all(torch.equal(one, other) for one, other in zip(near, far, strict=True))


@pytest.mark.parametrize("form", ["chunk", "fused_chunk", "wide"])
@pytest.mark.parametrize("axis", AXES)
def test_linear_attention_reaches_past_two_to_the_31(axis: str, form: str) -> None:
    case = Case("identity", d=260, **sized(axis)) if form == "wide" else Case("exp", form=form, **sized(axis))
    tensors = single(draw(case), torch.float16)

    def run(place: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        q, k, v = (place(x) for x in tensors[:3])
        call = replace(fused_call(tensors._replace(q=q, k=k, v=v), case.options), tiles=TILES)
        ran = forward(call, case.form)
        found = backward(call, ran.output, ran.norms, place(ran.output))
        maps = () if found.q_weight is None else (found.q_weight,)
        return ran.output, ran.final.kv, found.q, found.k, found.v, *maps

    assert_same(run, axis)


@pytest.mark.parametrize("axis", AXES)
def test_decoding_reaches_past_two_to_the_31(axis: str) -> None:
    case = Case("exp", state=True, **sized(axis, tokens=3))
    tensors = single(draw(case), torch.float16)
    state = tensors.initial
    assert state is not None

    def run(place: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        q, k, v = (place(x) for x in tensors[:3])
        ran = decode(fused_call(tensors._replace(q=q, k=k, v=v), case.options), state, torch.empty_like(state.kv))
        return ran.output, ran.final.kv, ran.final.k

    assert_same(run, axis)


@pytest.mark.parametrize("axis", AXES)
def test_the_hybrid_reaches_past_two_to_the_31(axis: str) -> None:
    sizes = sized(axis)
    given = single_hybrid(draw_hybrid(HybridCase(window=5, **sizes)))
    options = HybridOptions(5, 0.25, False, True)

    def run(place: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        placed = HybridTensors._make((*(place(x.half()) for x in given[:5]), given.gate_log, None))
        rows, final = hybrid_forward(placed, options, TILES)
        found = hybrid_backward(placed, options, rows, place(rows.output), TILES)
        return rows.output, final.kv, *found

    assert_same(run, axis)

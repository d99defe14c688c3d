"""Counts of the fused kernels: against a table worked out by hand for bfloat16, and against what kernels touch."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from hedgebench.kernels.fused import gradients
from hedgebench.kernels.fused import launch as forward_pass
from hedgebench.kernels.fused_costs import Walk, distillation_cost, fused_decode_cost
from hedgebench.kernels.triton.launch import launch
from hedgebench.kernels.triton.tiles import interpreting

from .fused_cases import Case, draw, single

SHAPE: dict[str, Any] = {"batch": 8, "heads": 16, "tokens": 4096, "dtype": "bfloat16"}
"""128 heads: one segment of a program for each multiprocessor at 128 dimensions, two segments at 64."""


@pytest.mark.parametrize(
    ("form", "d", "flops", "moved"),
    # q, k, v, o and a norm, W twice for all sequences, the last sums; half of k and v, two segments' sums, one read.
    [("fused_chunk", 64, 73_728, 512 + 4 + 0.5 + 8.125), ("fused_chunk", 128, 245_760, 1024 + 4 + 2 + 32.25),
     ("chunk", 64, 73_728 + 12_288, 512 + 4 + 0.5 + 8.125 + 128 + 0.25 + 3 * 8.125)],
)  # fmt: skip
def test_forward_counts_are_those_worked_out_by_hand(form: str, d: int, flops: int, moved: float) -> None:
    cost, token_heads = Walk(form, d=d, **SHAPE).forward, 8 * 16 * 4096
    assert cost.flops / token_heads == flops
    assert cost.bytes / token_heads == moved


@pytest.mark.parametrize(
    ("form", "d", "vectors", "flops"),
    [("chunk", 64, 13, 36 * 64**2 + 18 * 64 * 64 + 3 * 64**2), ("fused_chunk", 128, 12, 36 * 128**2 + 18 * 64 * 128)],
)
def test_backward_counts_are_those_worked_out_by_hand(form: str, d: int, vectors: int, flops: int) -> None:
    cost, token_heads = Walk(form, d=d, **SHAPE).backward, 8 * 16 * 4096
    assert cost.flops / token_heads == flops
    rest = 4 * 12 * d * d / 4096 + 24  # sums, shares of dW; norms and o·do of each row
    assert vectors * d * 2 < cost.bytes / token_heads < vectors * d * 2 + 1.2 * rest


@pytest.mark.skipif(not interpreting(), reason="needs Triton's interpreter")
@pytest.mark.parametrize(
    ("feature_map", "form", "b", "h", "n"),
    [("softmax", "chunk", 2, 1, 300), ("exp", "chunk", 1, 2, 700), ("exp", "fused_chunk", 1, 2, 70)],
)
def test_bytes_are_those_that_the_kernels_read_and_write(
    feature_map: str, form: str, b: int, h: int, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every address that a launch touches, once if it reads it and once if it writes it."""
    from triton.runtime.interpreter import interpreter_builder as builder

    touched: defaultdict[str, set[tuple[str, int, int]]] = defaultdict(set)
    running = ""
    load, store = builder.create_masked_load, builder.create_masked_store

    def note(kind: str, pointers: Any, mask: Any) -> None:
        size = pointers.get_element_ty().primitive_bitwidth // 8
        places = np.broadcast_to(pointers.data, mask.data.shape)[mask.data.astype(bool)]
        touched[running] |= {(kind, int(place), size) for place in places}

    def noted_load(pointers: Any, mask: Any, *others: Any) -> Any:
        note("read", pointers, mask)
        return load(pointers, mask, *others)

    def noted_store(pointers: Any, value: Any, mask: Any, *others: Any) -> Any:
        note("written", pointers, mask)
        return store(pointers, value, mask, *others)

    def named(kernel: Any, *args: Any, **arguments: Any) -> None:
        nonlocal running
        running = kernel.__name__
        launch(kernel, *args, **arguments)

    monkeypatch.setattr(builder, "create_masked_load", noted_load)
    monkeypatch.setattr(builder, "create_masked_store", noted_store)
    monkeypatch.setattr(forward_pass, "launch", named)
    monkeypatch.setattr(gradients, "launch", named)
    case = Case(feature_map, b=b, h=h, hk=h, n=n, d=16, dv=16, form=form)
    call = replace(single(draw(case), torch.bfloat16), tiles=None).readable()
    ran = forward_pass.forward(call)
    gradients.backward(call, ran, ran.output.clone())
    walk = Walk(form, b, h, n, 16, "bfloat16", log_space=feature_map == "exp")
    counted = {name: cost.bytes for name, cost in (walk.forward_kernels | walk.backward_kernels).items()}
    assert {name: sum(size for *_, size in found) for name, found in touched.items()} == counted


def test_a_decoded_token_moves_its_state_both_ways() -> None:
    assert fused_decode_cost(heads=1, d=64).bytes == 2 * 4 * 128 * 64


def test_the_roofline_is_the_slower_of_products_and_memory() -> None:
    cost = Walk("fused_chunk", d=64, **SHAPE).forward
    assert cost.seconds(1e9, 1e30) == pytest.approx(cost.flops / 1e9)
    assert cost.seconds(1e30, 1e9) == pytest.approx(cost.bytes / 1e9)


def test_calls_one_after_another_add_up() -> None:
    walk = Walk("chunk", d=64, **SHAPE)
    both = walk.forward + walk.backward
    assert (both.flops, both.bytes) == (
        walk.forward.flops + walk.backward.flops, walk.forward.bytes + walk.backward.bytes
    )  # fmt: skip


def test_distillation_is_quadratic_in_products_and_linear_in_traffic() -> None:
    cost = distillation_cost(pairs=1000, token_heads=44, d=64)
    assert (cost.flops, cost.bytes) == (1000 * 2048, 44 * 2560)

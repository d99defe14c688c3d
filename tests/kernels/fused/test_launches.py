"""How kernels are launched: on whose device, in grids of what size, and with how much memory beside."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from hedgebench.kernels.distillation import launch as triton_distill
from hedgebench.kernels.distillation.launch import distill
from hedgebench.kernels.fused import gradients as triton_gradients
from hedgebench.kernels.fused import launch as triton_forward
from hedgebench.kernels.fused.call import Call
from hedgebench.kernels.fused.gradients import backward
from hedgebench.kernels.fused.launch import decode, forward
from hedgebench.kernels.hybrid.op import MAX_BATCH, why_not_hybrid
from hedgebench.kernels.state import LinearState
from hedgebench.kernels.triton.launch import MAX_GRID, launch
from hedgebench.kernels.triton.tiles import PROGRAMS, Tiles, interpreting

from ..distillation.test_kernels import draw as draw_distillation
from ..distillation.test_kernels import single as single_distillation
from ..fused_cases import Case, draw, reference, relative, single

interpreted = pytest.mark.skipif(not interpreting(), reason="on a GPU the suite marked gpu runs these kernels")


class Kernel:
    """Stands for a kernel: keeps what it was launched with."""

    __name__ = "kernel"

    def __init__(self) -> None:
        self.arg_names = ("x", "tokens")
        self.launched: list[tuple[tuple[int, ...], dict[str, Any]]] = []

    def run(self, *args: Any, grid: tuple[int, ...], **_: Any) -> None:
        self.launched.append((grid, dict(zip(self.arg_names, args, strict=True))))


class Elsewhere(Tensor):
    """Says that it lies on the fourth GPU."""

    is_cuda = True

    def get_device(self) -> int:
        return 3


@pytest.mark.parametrize(("is_cuda", "current", "expected"), [(True, 0, [3]), (True, 3, []), (False, 0, [])])
def test_a_kernel_is_launched_on_the_device_of_its_tensors(
    is_cuda: bool, current: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[int] = []

    def guard(index: int) -> Any:
        entered.append(index)
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "device", guard)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    kernel = Kernel()
    tensor = torch.ones(1).as_subclass(Elsewhere) if is_cuda else torch.ones(1)
    launch(kernel, (1,), shared={"x": (tensor,), "other": 3}, tokens=7, num_warps=4, num_stages=1)
    assert entered == expected
    assert kernel.launched == [((1,), {"x": (tensor,), "tokens": 7})]


def test_a_grid_that_cuda_does_not_start_is_refused() -> None:
    kernel = Kernel()
    arguments: dict[str, Any] = {"x": (torch.ones(1),), "tokens": 7, "num_warps": 4, "num_stages": 1}
    launch(kernel, MAX_GRID, **arguments)
    for axis in range(3):
        grid = tuple(limit + (axis == index) for index, limit in enumerate(MAX_GRID))
        with pytest.raises(ValueError, match=r"kernel would need a grid of .* CUDA starts up to"):
            launch(kernel, grid, **arguments)
    assert len(kernel.launched) == 1


def test_an_argument_that_a_kernel_has_no_parameter_for_is_refused() -> None:
    with pytest.raises(TypeError, match=r"kernel has no parameters \['token'\]"):
        launch(Kernel(), (1,), x=(torch.ones(1),), tokens=7, token=7, num_warps=4, num_stages=1)


def test_a_batch_past_the_grid_s_last_axis_is_left_to_torch() -> None:
    few, many = (torch.empty(batch, 1, 1, 1) for batch in (MAX_BATCH, MAX_BATCH + 1))
    assert "a batch of more than 65535" not in why_not_hybrid(few, few, 1, log_space=False)
    assert "a batch of more than 65535" in why_not_hybrid(many, many, 1, log_space=False)


@pytest.mark.parametrize(("width", "values", "tile"), [(128, 128, 128), (128, 144, 32), (64, 256, 256)])
def test_decoding_holds_all_values_of_heads_of_up_to_128_and_else_a_few(
    width: int, values: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[Any] = []
    monkeypatch.setattr(triton_forward, "launch", lambda *_, **arguments: launched.append(arguments["C"].BV))
    decode(single(draw(Case("softmax", n=1, d=width, dv=values, state=True))))
    assert launched == [tile]


@interpreted
@pytest.mark.parametrize("name", ["grouped_and_padded", "both_ways_log"])
def test_distillation_of_more_heads_than_a_grid_takes_is_launched_in_parts(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = replace(single_distillation(draw_distillation(name)), log_space=False, eps=1e-12)
    factors = (given.phi_q.exp(), given.phi_k.exp())
    grids: list[tuple[int, ...]] = []

    def noted(kernel: Any, grid: tuple[int, ...], **arguments: Any) -> None:
        grids.append(grid)
        launch(kernel, grid, **arguments)

    monkeypatch.setattr(triton_distill, "launch", noted)
    whole = distill(given, factors, rows=16)
    assert {grid[1] for grid in grids} == {given.q.shape[0] * given.q.shape[1]}
    grids.clear()
    monkeypatch.setattr(triton_distill, "MAX_GRID", (9, given.q.shape[1], 9))
    parts = distill(given, factors, rows=16)
    assert {grid[1] for grid in grids} == {given.q.shape[1]}
    assert len(grids) == 3 * given.q.shape[0]
    assert whole[2] is not None
    assert parts[2] is not None
    for one, other in zip((*whole[:2], *whole[2]), (*parts[:2], *parts[2]), strict=True):
        assert torch.equal(one, other)


@interpreted
@pytest.mark.parametrize(("batch", "tokens", "launches"), [(5, 7, 3), (1, 45, 2)])
def test_gradients_of_maps_are_added_up_over_launches_of_a_few_programs(
    batch: int, tokens: int, launches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two segments a launch: of five short sequences, or of one with three segments and two heads."""
    monkeypatch.setattr(triton_gradients, "PROGRAMS", 1)
    grids: list[int] = []

    def noted(kernel: Any, grid: tuple[int, ...], **arguments: Any) -> None:
        grids.extend(grid[:1] if "slots_before" in arguments else ())
        launch(kernel, grid, **arguments)

    monkeypatch.setattr(triton_gradients, "launch", noted)
    case = Case("softmax", b=batch, n=tokens, h=2 if batch == 1 else 1, hk=1, d=12, w=20, bias=True)
    exact = draw(case)
    expected, cotangents = reference(exact)
    call = replace(single(exact), tiles=Tiles(16, 16, 16, 8, 8, 1))
    ran = forward(call)
    last = LinearState(cotangents[1].float(), cotangents[2].float())
    found = backward(call, ran, cotangents[0].float(), last)
    assert len(grids) == 2 * launches
    for name in ("q_weight", "k_weight", "q_bias", "k_bias", "q", "k"):
        assert relative(found[name], expected.gradients[name]) < 1e-5, name


@pytest.mark.parametrize("tokens", [1, 16, 64, 1000, 1025, 4096])
def test_shares_of_a_map_s_gradient_are_no_larger_than_queries_once_the_device_is_full(
    tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 128 dimensions in bfloat16; a device is full with 264 programs at most."""
    sizes: list[int] = []

    def measured(_: Any, grid: tuple[int, ...], *, grad_map: tuple[Tensor, None], slots_before: int, **__: Any) -> None:
        if slots_before == 0:
            assert grad_map[0].shape[0] == grid[0]
            sizes.append(grad_map[0].nbytes)

    monkeypatch.setattr(triton_gradients, "launch", measured)
    batch, heads, dim = max(1, 400_000 // tokens), 2, 128
    x = torch.empty(batch, heads, tokens, dim, dtype=torch.bfloat16, device="meta")
    weight = torch.empty(heads, dim, dim, device="meta")
    call = Call(x, x, x, weight, weight, feature_map="softmax", negate=True)
    triton_gradients._in_walks(call, "q", x, None)
    assert sizes[0] <= max(x.numel() * x.element_size(), 2 * PROGRAMS * dim * dim * 4)

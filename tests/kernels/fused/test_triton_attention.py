"""Triton kernels in the interpreter: outputs, states and gradients against the torch forms in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from hedgebench.kernels.fused.call import Call
from hedgebench.kernels.fused.gradients import backward
from hedgebench.kernels.fused.launch import forward
from hedgebench.kernels.state import LinearState
from hedgebench.kernels.triton.tiles import Tiles, interpreting

from ..fused_cases import Case, Results, draw, reference, relative, single, tensors_of
from ..interpreter import products_of_bfloat16
from ..oracles import cast, plain_linear

pytestmark = [
    pytest.mark.skipif(not interpreting(), reason="on a GPU the suite marked gpu runs these kernels"),
    # A walk with a log feature too large for it is repeated.
    pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning"),
]

TILES = Tiles(chunk=16, block=32, values=16, warps=4, backward_warps=4, stages=1)

CASES = {
    **{name: Case(name, hk=1) for name in ("log_identity", "exp", "softmax")},
    **{name: Case(name, h=1, hk=1) for name in ("identity", "exp_max", "softmax_joint")},
    "one_pass": Case("softmax", form="fused_chunk", h=1, hk=1, b=2, mask=True, state=True),
    "one_pass_log": Case("exp", form="fused_chunk", h=4, n=35, mask=True, state=True),
    "one_pass_unnormalised": Case("exp_max", form="fused_chunk", h=1, hk=1, normalize=False, negate=False, dv=20),
    "one_pass_identity": Case("identity", form="fused_chunk", hk=1, mask=True, state=True),
    "one_pass_log_identity": Case("log_identity", form="fused_chunk", h=1, hk=1, state=True),
    "one_pass_bias": Case("softmax_joint", form="fused_chunk", hk=1, d=20, w=12, dv=24, mask=True, bias=True),
    "one_pass_bias_log": Case("exp", form="fused_chunk", n=19, d=20, w=12, dv=24, bias=True, state=True),
    "one_pass_packed": Case("exp_max", form="fused_chunk", n=40, ends=(0, 1, 19, 40), bias=True, state=True),
    "bias_and_odd_sizes": Case("softmax_joint", h=4, n=35, d=20, w=12, dv=24, mask=True, bias=True),
    "bias_and_odd_sizes_log": Case("exp", hk=1, n=35, d=20, w=12, dv=24, mask=True, bias=True),
    "one_half_unnormalised": Case("softmax_joint", h=1, hk=1, negate=False, normalize=False, state=True),
    "one_half_unnormalised_log": Case("exp", h=1, hk=1, negate=False, normalize=False, state=True),
    "both_ways": Case("softmax", causal=False, b=2, h=2, hk=1, mask=True, state=True),
    "both_ways_log": Case("exp", causal=False, h=4, n=35, mask=True, state=True),
    "wider_map": Case("exp_max", w=24, h=2, hk=1, n=19),
    "one_token": Case("exp", n=1, state=True),
    "one_chunk": Case("softmax", n=16),
    "whole_block": Case("exp", h=1, hk=1, n=64),
    "packed": Case("softmax", hk=1, n=60, ends=(0, 1, 34, 60), state=True),
    "packed_log": Case("exp", hk=1, n=40, ends=(0, 17, 40), form="fused_chunk", state=True),
    "wide_head": Case("softmax", h=1, hk=1, n=17, d=80, dv=80),
    "widest_head": Case("exp", h=1, hk=1, n=17, d=128, dv=128),
    "narrow_values": Case("softmax", h=1, hk=1, d=48, dv=4),
    "wide_features": Case("identity", d=300, h=1, hk=1, n=20),
    "wide_features_grouped": Case("identity", d=260, h=2, hk=1, n=20, dv=20, mask=True, state=True),
    "wide_features_both_ways": Case("identity", d=260, h=2, hk=1, n=20, causal=False, mask=True, state=True),
    "wide_features_packed": Case("identity", d=260, h=1, hk=1, n=36, ends=(0, 3, 36), normalize=False),
}


def run(
    call: Call, cotangents: tuple[torch.Tensor, ...], tiles: Tiles = TILES, scale: torch.Tensor | None = None
) -> Results:
    call = replace(call, tiles=tiles)
    ran = forward(call)
    # A state in log space means something only with its shift: the kernels' is that of the torch forms afterwards.
    factor = torch.ones(())
    if scale is not None:
        assert ran.final.log_scale is not None
        factor = (ran.final.log_scale.double() - scale).exp()
    kv, keys = cotangents[1] * factor[..., None], cotangents[2] * factor
    found = backward(call, ran, cotangents[0].to(call.q.dtype), LinearState(kv.float(), keys.float()))
    state = LinearState(ran.final.kv.double() * factor[..., None], ran.final.k.double() * factor)
    return Results(ran.output, state, found)


def assert_close(got: Results, expected: Results, tolerance: float) -> None:
    assert relative(got.output, expected.output) < tolerance
    assert relative(got.state.kv, expected.state.kv) < tolerance
    assert relative(got.state.k, expected.state.k) < tolerance
    assert got.gradients.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        assert relative(got.gradients[name], gradient) < tolerance, name


@pytest.mark.parametrize("name", CASES)
def test_kernels_match_the_torch_forms(name: str) -> None:
    """Padding counts nowhere whatever its memory holds: for the kernels it holds NaN, for the torch forms numbers."""
    exact = draw(CASES[name])
    expected, cotangents = reference(exact)
    assert_close(run(single(with_nan_in_padding(exact)), cotangents, scale=expected.state.log_scale), expected, 1e-5)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.mask])
def test_padding_counts_nowhere_in_the_torch_forms_whatever_its_memory_holds(name: str) -> None:
    exact = draw(CASES[name])
    assert_close(reference(with_nan_in_padding(exact))[0], reference(exact)[0], 1e-12)


def with_nan_in_padding(call: Call) -> Call:
    if call.mask is None:
        return call
    hidden = ~call.mask[:, None, :, None]
    return replace(call, k=call.k.masked_fill(hidden, torch.nan), v=call.v.masked_fill(hidden, torch.nan))


@pytest.mark.parametrize("form", ["chunk", "fused_chunk"])
@pytest.mark.parametrize("spread", [30.0, 100.0])
def test_log_features_of_any_size_keep_their_row(form: str, spread: float) -> None:
    """float32 holds an exponent of a few hundred to 1e-5; a lost row would be wrong by its whole size."""
    case = Case("exp", form=form, h=1, hk=1, n=19, spread=spread, mask=True, state=True)
    exact = draw(case)
    expected, cotangents = reference(exact)
    assert_close(run(single(exact), cotangents, scale=expected.state.log_scale), expected, 1e-4)


@pytest.mark.parametrize("form", ["chunk", "fused_chunk"])
def test_a_towering_later_key_takes_nothing_from_earlier_rows(form: str) -> None:
    """The last key of a chunk stands 300 nats above the others in every feature: no shift of a chunk holds both."""
    case = Case("log_identity", h=1, hk=1, n=16, form=form)
    exact = draw(case)
    exact.k[:, :, -1] += 300.0
    expected, cotangents = reference(exact)
    assert_close(run(single(exact), cotangents, scale=expected.state.log_scale), expected, 1e-4)


def test_float16_matches_to_its_precision() -> None:
    case = Case("softmax", hk=1, bias=True)
    call = single(draw(case), torch.float16)
    doubled: dict[str, Any] = {name: x.double() for name, x in call.differentiable().items()}
    expected, cotangents = reference(replace(call, **doubled))
    assert_close(run(call, cotangents), expected, 4e-3)


@pytest.mark.parametrize("feature_map", ["exp", "softmax"])
def test_strided_inputs_give_the_same_to_the_bit(feature_map: str) -> None:
    case = Case(feature_map, n=20)
    call = single(draw(case))
    plain = run(call, (call.v, *_zero_state(case)))
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (call.q, call.k, call.v))
    strided = run(replace(call, q=q, k=k, v=v), (call.v, *_zero_state(case)))
    assert torch.equal(plain.output, strided.output)
    assert all(torch.equal(plain.gradients[name], strided.gradients[name]) for name in plain.gradients)


@pytest.mark.parametrize(("feature_map", "size"), [("exp", 70.0), ("log_identity", 70.0), ("log_identity", -70.0)])
def test_one_wild_key_repeats_its_segment_and_all_later_ones(feature_map: str, size: float) -> None:
    """Segments before it, whose sums have no shift, meet those that have one in every sum over segments."""
    exact = draw(Case(feature_map, h=1, hk=1, n=100, state=True))
    exact.k[:, :, 40] = size
    expected, cotangents = reference(exact)
    assert_close(run(single(exact), cotangents, scale=expected.state.log_scale), expected, 1e-4)


def test_a_maximum_that_rounding_moves_off_one_keeps_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU an exponent is one fused operation: of the largest feature it is a rounding error, rather than 0."""
    monkeypatch.setattr(
        "triton.runtime.interpreter.InterpreterBuilder.create_exp2",
        lambda builder, x: builder.unary_op(x, lambda exponents: np.exp2(exponents) * np.float32(1 - 2**-23)),
    )
    exact = draw(CASES["exp_max"])
    expected, cotangents = reference(exact)
    assert_close(run(single(exact), cotangents), expected, 1e-5)


def test_tiles_do_not_change_results() -> None:
    case = Case("exp", h=1, hk=1, n=70)
    exact = draw(case)
    expected, cotangents = reference(exact)
    for tiles in (Tiles(16, 16, 16, 4, 4, 1), Tiles(32, 64, 32, 4, 4, 1)):
        assert_close(run(single(exact), cotangents, tiles, expected.state.log_scale), expected, 1e-5)


def test_a_later_token_changes_no_earlier_output() -> None:
    for form in ("chunk", "fused_chunk"):
        case = Case("exp", h=1, hk=1, n=40, form=form)
        call = replace(single(draw(case)), tiles=TILES)
        before = forward(call).output
        k, v = call.k.clone(), call.v.clone()
        k[:, :, 30:] += 3.0
        v[:, :, 30:] -= 5.0
        after = forward(replace(call, k=k, v=v)).output
        torch.testing.assert_close(after[:, :, :30], before[:, :, :30], rtol=0, atol=2e-6)


def test_values_of_one_give_outputs_of_one() -> None:
    case = Case("exp_max", mask=True)
    call = single(draw(case))
    output = forward(replace(call, v=torch.ones_like(call.v), tiles=TILES)).output
    assert call.mask is not None
    seen = call.mask.cumsum(1) > 0
    rows = output.transpose(1, 2)
    torch.testing.assert_close(rows[seen], torch.ones_like(rows[seen]), rtol=0, atol=1e-5)
    assert not rows[~seen].any()


def _zero_state(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(case.b, case.hk, case.features, case.dv), torch.zeros(case.b, case.hk, case.features)


@pytest.mark.parametrize("feature_map", ["softmax", "exp"])
def test_products_of_bfloat16_cost_no_more_than_in_a_plain_computation(feature_map: str) -> None:
    """At 64 dimensions, three segments: outputs and gradients beside those of quadratic attention in bfloat16."""
    case = Case(feature_map, h=1, hk=1, n=160, d=64, dv=64)
    call = single(draw(case), torch.bfloat16)
    cotangent = torch.randn(call.v.shape, generator=torch.Generator().manual_seed(7)).bfloat16()

    def plain(dtype: torch.dtype) -> dict[str, Tensor]:
        leaves = {name: x.detach().requires_grad_() for name, x in cast(tensors_of(call), dtype).items()}
        output = plain_linear(case.options)(leaves)["output"]
        found = torch.autograd.grad(output, list(leaves.values()), cotangent.to(dtype))
        return {"output": output.detach()} | dict(zip(leaves, found, strict=True))

    exact, rough = plain(torch.float64), plain(torch.bfloat16)
    with products_of_bfloat16():
        ran = forward(replace(call, tiles=Tiles(64, 64, 64, 4, 4, 1)))
        got = {"output": ran.output} | backward(replace(call, tiles=Tiles(64, 64, 64, 4, 4, 1)), ran, cotangent)
    for name, right in exact.items():
        error, allowed = ((found[name].double() - right).norm() for found in (got, rough))
        assert 0 < error <= allowed, name

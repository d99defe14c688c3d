"""The decode kernel in the interpreter against the torch form, token by token and in place."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from hedgebench.kernels.fused.launch import decode
from hedgebench.kernels.fused.torch_forms import torch_decode
from hedgebench.kernels.state import LinearState
from hedgebench.kernels.triton.tiles import interpreting

from ..fused_cases import Case, draw, relative, single

pytestmark = pytest.mark.skipif(not interpreting(), reason="on a GPU the suite marked gpu runs this kernel")

CASES = {
    **{
        name: Case(name, n=2, h=4, hk=2, state=True, d=20, w=12, dv=40)
        for name in ("exp", "exp_max", "softmax", "softmax_joint")
    },
    "identity": Case("identity", n=1, state=True, b=2),
    "log_identity": Case("log_identity", n=3, state=True),
    "bias": Case("softmax_joint", n=1, bias=True, state=True),
    "unnormalised": Case("exp", n=1, normalize=False, negate=False, state=True),
    "large": Case("exp", n=2, spread=60.0, state=True),
}


@pytest.mark.parametrize("name", CASES)
def test_decoding_matches_the_recurrent_form(name: str) -> None:
    case = CASES[name]
    exact = draw(case)
    output, state = torch_decode(exact)
    ran = decode(single(exact))
    tolerance = 1e-4 if case.spread > 1 else 1e-5
    assert relative(ran.output, output) < tolerance
    for got, expected in zip(_parts(ran.final), _parts(state), strict=True):
        assert relative(got, expected) < tolerance


def test_the_old_state_is_left_as_it_was_unless_it_is_given_for_the_new_one() -> None:
    call = single(draw(CASES["exp"]))
    assert call.initial_kv is not None
    before = call.initial_kv.clone()
    elsewhere = decode(call)
    assert torch.equal(call.initial_kv, before)
    in_place = decode(call, in_place=True)
    assert in_place.final.kv is call.initial_kv
    assert torch.equal(call.initial_kv, elsewhere.final.kv)
    assert torch.equal(in_place.output, elsewhere.output)


def _parts(state: LinearState) -> list[torch.Tensor]:
    return [x for x in (state.kv, state.k, state.log_scale) if x is not None]

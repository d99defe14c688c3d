"""Triton kernels of the window hybrid in the interpreter, and its operators, beside the torch forms in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from hedgebench.kernels.hybrid.call import HybridCall, torch_hybrid
from hedgebench.kernels.hybrid.launch import hybrid_backward, hybrid_forward
from hedgebench.kernels.hybrid.op import fused_hybrid, why_not_hybrid
from hedgebench.kernels.state import LinearState
from hedgebench.kernels.triton.operator import gradients_by_torch
from hedgebench.kernels.triton.tiles import Tiles, interpreting

from ..fused_cases import relative
from ..other_process import OtherProcess

# Exponents past float32 are cut or replaced afterwards.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")

interpreted = pytest.mark.skipif(not interpreting(), reason="on a GPU the suite marked gpu runs these kernels")

TILES = Tiles(chunk=16, block=32, values=16, warps=4, backward_warps=4, stages=1)


@dataclass(frozen=True)
class Case:
    """One call; `mask` hides the first tokens of the first entry, and some others."""

    n: int = 37
    window: int = 9
    log_space: bool = False
    b: int = 1
    h: int = 2
    hk: int = 2
    d: int = 16
    dv: int = 16
    f: int = 24
    mask: bool = False
    spread: float = 1.0
    tolerance: float = 2e-5


CASES = {
    "plain": Case(),
    "log": Case(h=1, hk=1, log_space=True),
    "grouped_and_masked": Case(b=2, h=4, hk=2, n=37, d=20, dv=24, mask=True),
    "grouped_and_masked_log": Case(b=2, hk=1, n=37, d=20, dv=24, mask=True, log_space=True),
    "window_of_one": Case(n=20, window=1),
    "window_longer_than_a_tile": Case(h=1, hk=1, n=50, window=40, log_space=True),
    "one_token_has_left": Case(n=10, window=9),
    "blind_rows_log": Case(h=1, hk=1, n=40, window=5, mask=True, log_space=True),
    "blind_rows": Case(h=1, hk=1, n=40, window=5, mask=True),
    "wide_features": Case(n=20, h=1, hk=1, f=260),
    "large_scores": Case(h=1, hk=1, spread=6.0, log_space=True, tolerance=1e-4),
}


def draw(case: Case) -> HybridCall:
    """Gives a case's call in float64."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    late = case.n - case.window
    q, k = (normal(case.b, h, case.n, case.d) * case.spread for h in (case.h, case.hk))
    far_q, far_k = (normal(case.b, h, late, case.f) * case.spread for h in (case.h, case.hk))
    mask = None
    if case.mask:
        mask = torch.rand(case.b, case.n, generator=generator) > 0.3
        mask[0, : case.n // 2] = False
    if not case.log_space:
        far_q, far_k = far_q.relu(), far_k.relu()
    v, gate = normal(case.b, case.hk, case.n, case.dv), -normal(case.h).exp()
    options = (case.window, case.d**-0.5, case.log_space, not case.log_space)
    return HybridCall(q, k, v, far_q, far_k, gate, mask, *options)


def single(call: HybridCall, tiles: Tiles | None = None) -> HybridCall:
    cast: dict[str, Any] = {name: x.float() for name, x in call.differentiable().items()}
    return replace(call, **cast, tiles=tiles)


def learning(call: HybridCall) -> HybridCall:
    """Gives the call with gradients wanted."""
    wanted: dict[str, Any] = {name: x.detach().requires_grad_() for name, x in call.differentiable().items()}
    return replace(call, **wanted)


@interpreted
@pytest.mark.parametrize("name", CASES)
def test_kernels_match_the_torch_forms(name: str) -> None:
    """Padding counts nowhere whatever its memory holds: for the kernels it holds NaN, for the torch forms numbers."""
    exact = draw(CASES[name])
    assert_kernels_give(with_nan_in_padding(exact), exact, CASES[name].tolerance)


def with_nan_in_padding(call: HybridCall) -> HybridCall:
    if call.mask is None:
        return call
    hidden = ~call.mask[:, None, :, None]
    far_k = call.far_k.masked_fill(hidden[:, :, : call.far_tokens], torch.nan)
    k, v = (x.masked_fill(hidden, torch.nan) for x in (call.k, call.v))
    return replace(call, k=k, v=v, far_k=far_k)


def assert_kernels_give(given: HybridCall, exact: HybridCall, tolerance: float) -> None:
    """Holds the kernels' results for `given` to those of the torch forms for `exact`."""
    expected, state = torch_hybrid(exact)
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = gradients_by_torch(lambda call: torch_hybrid(call)[:1], exact, (grad,))
    call = single(given, TILES)
    rows, final = hybrid_forward(call)
    found = hybrid_backward(call, rows, grad.float())
    assert relative(rows.output, expected) < 1e-5
    assert relative(true_sums(final), true_sums(state)) < 1e-5
    assert found.keys() == gradients.keys()
    for name, wanted in gradients.items():
        # The gate's gradient is a sum over all rows, in which most of its terms cancel.
        got = found[name]
        close = relative(got, wanted) < tolerance or torch.allclose(got.double(), wanted, rtol=0, atol=1e-5)
        assert close, (name, relative(got, wanted))


def true_sums(state: LinearState) -> Tensor:
    """Gives the sums without their shift, which differs between forms."""
    sums = state.kv.double()
    return sums if state.log_scale is None else sums * state.log_scale.double().exp()[..., None]


@interpreted
def test_a_later_token_changes_no_earlier_output() -> None:
    given = single(draw(CASES["plain"]), TILES)
    before = hybrid_forward(given)[0].output
    k, v, far_k = given.k.clone(), given.v.clone(), given.far_k.clone()
    k[:, :, 30:] += 3.0
    v[:, :, 30:] -= 5.0
    far_k[:, :, 22:] += 2.0
    after = hybrid_forward(replace(given, k=k, v=v, far_k=far_k))[0].output
    assert torch.equal(after[:, :, :30], before[:, :, :30])
    assert not torch.equal(after[:, :, 30:], before[:, :, 30:])


@interpreted
def test_values_of_one_give_outputs_of_one() -> None:
    given = single(draw(CASES["grouped_and_masked"]), TILES)
    output = hybrid_forward(replace(given, v=torch.ones_like(given.v)))[0].output
    assert given.mask is not None
    rows = output.transpose(1, 2)[given.mask]
    torch.testing.assert_close(rows, torch.ones_like(rows), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["plain", "grouped_and_masked_log"])
def test_the_operator_passes_opcheck(name: str) -> None:
    torch.library.opcheck(fused_hybrid, learning(single(draw(CASES[name]))).flatten())


@pytest.mark.parametrize("log_space", [True, False])
def test_gradients_of_the_operator_match_finite_differences(log_space: bool) -> None:
    case = Case(n=6, window=2, d=2, dv=3, f=3, h=2, hk=1, log_space=log_space)
    call = draw(case)
    if not log_space:
        call = replace(call, far_q=call.far_q + 0.1, far_k=call.far_k + 0.1)
    leaves = learning(call).differentiable()

    def output(*tensors: Tensor) -> Any:
        changed: dict[str, Any] = dict(zip(leaves, tensors, strict=True))
        return fused_hybrid(*replace(call, **changed).flatten())[0]

    torch.autograd.gradcheck(output, tuple(leaves.values()))


_COMPILED = """
import torch
from hedgebench.kernels.hybrid.attention import hybrid_attention
torch.manual_seed(0)
q, k, v = (torch.randn(1, 2, 20, 16) for _ in range(3))
positions, gate = torch.arange(20)[None], torch.zeros(2)
def attention(q):
    options = {'window': 4, 'gate_log': gate, 'positions': positions}
    return hybrid_attention(q, k, v, q.relu(), lambda k, p: k.relu(), **options).output
eager_q, compiled_q = (q.clone().requires_grad_() for _ in range(2))
expected = attention(eager_q)
compiled = torch.compile(attention, fullgraph=True, backend='aot_eager')(compiled_q)
torch.testing.assert_close(compiled, expected)
expected.sum().backward()
compiled.sum().backward()
torch.testing.assert_close(compiled_q.grad, eager_q.grad)
"""


def test_a_compiled_call_has_no_graph_break_and_the_same_result(unchecked: OtherProcess) -> None:
    unchecked.run(_COMPILED)


def test_what_the_kernels_do_not_take_is_said() -> None:
    x = torch.empty(1, 1, 4, 300, dtype=torch.float64)
    said = why_not_hybrid(x, x, 16, log_space=True)
    assert "on cpu" in said
    assert "float64" in said
    assert "above 256" in said

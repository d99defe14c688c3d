"""Triton kernels of attention distillation in the interpreter: losses and gradients as those of torch in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from hedgebench.kernels.distillation.call import DistillationCall
from hedgebench.kernels.distillation.launch import distill
from hedgebench.kernels.distillation.loss import attention_distillation_loss
from hedgebench.kernels.distillation.op import distillation
from hedgebench.kernels.distillation.tiled_scores import factored
from hedgebench.kernels.distillation.tiles import tiled_loss
from hedgebench.kernels.triton.tiles import interpreting

from ..fused_cases import relative
from ..other_process import OtherProcess

pytestmark = pytest.mark.skipif(not interpreting(), reason="on a GPU the suite marked gpu runs these kernels")

CASES = {
    "plain": (1, 1, 37, 37, 16, 24, True, False, False),
    "log": (1, 1, 37, 37, 16, 24, True, True, False),
    "both_ways": (1, 2, 20, 33, 12, 20, False, False, True),
    "both_ways_log": (1, 2, 20, 33, 12, 20, False, True, True),
    "grouped_and_padded": (2, 3, 19, 19, 20, 16, True, False, True),
    "last_queries_log": (2, 2, 7, 40, 16, 16, True, True, True),
    "one_token": (1, 1, 1, 1, 16, 16, True, False, False),
    "wide_features": (1, 1, 17, 17, 16, 300, True, False, False),
}


def draw(name: str) -> DistillationCall:
    """Gives a case's call in float64, by torch and with gradients.

    A third of the features are zero outside log space, as ReLU leaves them.
    """
    leading, groups, queries, keys, dim, features, causal, log_space, hidden = CASES[name]
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k = normal(leading, groups, queries, dim), normal(leading, keys, dim)
    phi_q, phi_k = normal(leading, groups, queries, features), normal(leading, keys, features)
    if not log_space:
        phi_q, phi_k = (phi_q + 0.4).relu(), (phi_k + 0.4).relu()
    padding = None
    if hidden:
        padding = torch.zeros(leading, keys, dtype=torch.bool)
        padding[0, : keys // 3] = True
        phi_k = phi_k.masked_fill(padding[..., None], -1e30 if log_space else 0.0)
    shares = torch.rand(leading, queries, generator=generator, dtype=torch.float64)
    if padding is not None:
        shares = shares.masked_fill(padding[:, keys - queries :], 0.0)
    options = (causal, 1e-12, log_space, None, True, "torch")
    return DistillationCall(q, k, phi_q, phi_k, shares, padding, *options)


def single(call: DistillationCall) -> DistillationCall:
    return replace(call, **{name: getattr(call, name).float() for name in ("q", "k", "phi_q", "phi_k", "shares")})


@pytest.mark.parametrize("name", CASES)
def test_kernels_match_the_tiles_of_torch(name: str) -> None:
    exact = draw(name)
    expected = exact.zero_gradients()
    cross_entropy, kl = tiled_loss(exact, expected)
    given = single(exact)
    factors = factored(given.phi_q, given.phi_k, causal=given.causal, log_space=given.log_space)
    assert factors is not None
    got_loss, got_kl, got = distill(given, factors, rows=16)
    assert got is not None
    grad_q, grad_k = got
    if given.log_space:
        grad_q, grad_k = grad_q * factors[0], grad_k * factors[1][:, None]
    torch.testing.assert_close(got_loss.double(), cross_entropy, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(got_kl.double(), kl, rtol=1e-5, atol=1e-6)
    assert relative(grad_q + 1e-6, expected.queries + 1e-6) < 1e-5
    if exact.padding is not None:
        hidden = exact.padding[:, None, :, None]
        assert not grad_k.masked_select(hidden).any()
        expected = expected._replace(keys=expected.keys.masked_fill(hidden, 0.0))
    assert relative(grad_k + 1e-6, expected.keys + 1e-6) < 1e-5


def test_tiles_do_not_change_results() -> None:
    call = single(draw("grouped_and_padded"))
    small, large = (distill(call, (call.phi_q, call.phi_k), rows=rows) for rows in (16, 64))
    torch.testing.assert_close(small[:2], large[:2])
    assert small[2] is not None
    assert large[2] is not None
    torch.testing.assert_close(tuple(small[2]), tuple(large[2]))


def test_without_gradients_the_loss_is_the_same_to_the_bit() -> None:
    call = single(draw("plain"))
    factors = (call.phi_q, call.phi_k)
    with_gradients = distill(call, factors, rows=16)
    alone = distill(replace(call, with_gradients=False), factors, rows=16)
    assert alone[2] is None
    assert torch.equal(alone[0], with_gradients[0])


@pytest.mark.parametrize("name", ["plain", "log", "both_ways"])
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_the_operator_gives_the_same_by_either_backend(name: str, backend: str) -> None:
    exact = draw(name)
    expected = exact.zero_gradients()
    loss, _ = tiled_loss(exact, expected)
    got = distillation(*replace(single(exact), backend=backend).flatten())
    assert relative(got[0], loss) < 1e-5
    assert relative(got[2], expected.queries) < 1e-5
    assert int(got[4]) == ("torch", "triton").index(backend)


def test_log_features_that_no_shift_holds_are_left_to_torch_and_said_so() -> None:
    exact = replace(draw("log"), with_gradients=False, backend="triton")
    exact.phi_k[:, -1] += 300.0
    expected, _ = tiled_loss(exact, None)
    got = distillation(*single(exact).flatten())
    assert int(got[4]) == 0
    assert relative(got[0], expected) < 1e-5


@pytest.mark.parametrize("with_gradients", [True, False])
@pytest.mark.parametrize("name", ["plain", "both_ways_log"])
def test_the_operator_passes_opcheck(name: str, with_gradients: bool) -> None:
    call = replace(single(draw(name)), with_gradients=with_gradients)
    torch.library.opcheck(distillation, call.flatten())


def test_a_backend_that_cannot_run_says_why() -> None:
    x = torch.rand(1, 1, 4, 4)
    with pytest.raises(ValueError, match="tensors are on cpu, the kernels run on cuda"):
        attention_distillation_loss(x, x, x, x, causal=True, backend="triton")
    with pytest.raises(ValueError, match=r"unknown backend 'tritn'.*did you mean triton"):
        attention_distillation_loss(x, x, x, x, causal=True, backend="tritn")


def test_the_loss_says_what_ran() -> None:
    x = torch.rand(1, 1, 4, 4)
    kernel = attention_distillation_loss(x, x, x, x, causal=True).kernel
    assert (kernel.form, kernel.backend) == ("tiled", "torch")


_COMPILED = """
import torch
from hedgebench.kernels.distillation.loss import attention_distillation_loss
torch.manual_seed(0)
q, k, phi_k = (torch.randn(1, 2, 20, 16) for _ in range(3))
def loss(phi_q):
    return attention_distillation_loss(q, k, phi_q, phi_k, causal=True, log_space=True).cross_entropy.sum()
eager, compiled = (torch.ones(1, 2, 20, 16, requires_grad=True) for _ in range(2))
expected = loss(eager)
got = torch.compile(loss, fullgraph=True, backend='aot_eager')(compiled)
torch.testing.assert_close(got, expected)
expected.backward()
got.backward()
torch.testing.assert_close(compiled.grad, eager.grad)
"""


def test_a_compiled_loss_has_no_graph_break_and_the_same_gradients(unchecked: OtherProcess) -> None:
    unchecked.run(_COMPILED)

"""What the operators run on CUDA, run here by Triton's interpreter through torch's own dispatcher and checks.

torch refuses outputs that share memory with an input or with each other on every call, and torch.compile believes the
fake kernels. Both are held here against the functions for CUDA: an operator whose CPU kernel is disabled calls them.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

pytest.importorskip("triton")

from hedgebench.kernels.distillation.op import distillation
from hedgebench.kernels.fused.op import (
    attend,
    decode_in_place,
    fused_backward,
    fused_decode,
    fused_decode_,
    fused_forward,
)
from hedgebench.kernels.hybrid.op import fused_hybrid, fused_hybrid_backward
from hedgebench.kernels.triton import operator
from hedgebench.kernels.triton.tiles import interpreting

from ..distillation.test_kernels import draw as draw_distillation
from ..distillation.test_kernels import single as single_distillation
from ..fused_cases import Case, draw, learning, relative, single, tensors_of
from ..fused_cases import reference as linear_reference
from ..hybrid.test_launch import Case as HybridCase
from ..hybrid.test_launch import draw as draw_hybrid
from ..hybrid.test_launch import learning as learning_hybrid
from ..hybrid.test_launch import single as single_hybrid

pytestmark = [
    pytest.mark.skipif(not interpreting(), reason="on a GPU the suite marked gpu runs these functions"),
    pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning"),
]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def in_every_type(cases: Iterable[str], quick: Container[str], quick_halves: Container[str]) -> list[Any]:
    """Cases in every type; all but some in float32 and fewer in half precision are slow."""
    return [
        pytest.param(name, dtype, id=f"{name}-{dtype}", marks=[] if name in within else [pytest.mark.slow])
        for dtype in DTYPES
        for within in [quick if dtype == torch.float32 else quick_halves]
        for name in cases
    ]


LINEAR = {
    **{name: Case(name, n=5) for name in ("identity", "log_identity", "exp", "exp_max", "softmax", "softmax_joint")},
    "one_pass": Case("softmax", n=5, form="fused_chunk", state=True),
    "one_pass_log": Case("exp", n=5, form="fused_chunk", state=True),
    "one_half": Case("softmax", n=5, negate=False, state=True),
    "one_half_log": Case("exp", n=5, negate=False, normalize=False, state=True),
    "both_ways": Case("softmax", n=5, causal=False, b=2, mask=True, state=True),
    "both_ways_log": Case("exp", n=5, causal=False, b=2, mask=True, state=True),
    "packed": Case("softmax", n=9, ends=(0, 1, 9), state=True),
    "packed_log": Case("exp", n=9, ends=(0, 1, 9), state=True),
    "grouped": Case("softmax_joint", n=5, b=2, h=2, hk=1, d=12, w=20, dv=24, bias=True, mask=True),
    "grouped_log": Case("exp", n=5, b=2, h=2, hk=1, d=12, w=20, dv=24, bias=True, mask=True),
    "wide": Case("identity", n=5, h=2, hk=1, d=260, state=True),
    "one_token_log": Case("exp", n=1, state=True),
}

DECODED = {
    **{name: Case(name, n=2, state=True) for name in ("identity", "log_identity", "exp", "softmax", "softmax_joint")},
    "one_half": Case("exp_max", n=1, negate=False, normalize=False, state=True),
    "one_half_log": Case("exp", n=1, negate=False, state=True),
    "grouped_log": Case("exp", n=2, b=2, h=4, hk=2, d=12, w=20, dv=24, bias=True, state=True),
}

HYBRID = {
    "plain": HybridCase(n=6, window=3),
    "log": HybridCase(n=6, window=3, hk=1, log_space=True),
    "grouped": HybridCase(n=6, window=3, b=2, hk=1, d=20, dv=24, mask=True),
    "grouped_log": HybridCase(n=6, window=3, b=2, hk=1, d=20, dv=24, mask=True, log_space=True),
}


@pytest.mark.parametrize(
    "case", [Case("softmax", n=5, state=True, bias=True), Case("exp", n=5, mask=True), Case("identity", n=5, h=1, hk=1)]
)
def test_past_torch_s_dispatcher_a_call_gives_what_the_operator_gives(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = single(draw(case))
    changed = {name: x.clone().requires_grad_() for name, x in call.differentiable().items()}
    found: list[list[Tensor]] = []
    with functions_for_cuda(fused_forward, fused_backward):
        for listened_to in (True, False):
            monkeypatch.setattr(operator, "listened_to", lambda _, answer=listened_to: answer)
            output, _, kv, keys, *_ = attend(replace(call, **changed))  # type: ignore[arg-type]
            assert "Attention" in type(output.grad_fn).__name__ or listened_to
            with torch.no_grad():
                assert torch.equal(attend(call)[0], output)
            total = output.square().sum() + kv.square().sum() + 2 * keys.sum()
            gradients = torch.autograd.grad(total, list(changed.values()))
            found.append([output, kv, keys, *gradients])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_state_that_is_decoded_past_torch_s_dispatcher_has_a_new_version(monkeypatch: pytest.MonkeyPatch) -> None:
    call = single(draw(Case("exp", n=1, state=True)))
    assert call.initial_kv is not None
    before, version = call.initial_kv.clone(), call.initial_kv._version
    expected, new, _, _ = decoded = fused_decode(*call.flatten())
    assert len(decoded) == 4
    monkeypatch.setattr(operator, "listened_to", lambda _: False)
    assert relative(decode_in_place(call), expected.double()) < 1e-5
    assert relative(call.initial_kv, new.double()) < 1e-5
    assert call.initial_kv._version > version
    assert not torch.equal(call.initial_kv, before)


def test_a_mode_a_subclass_a_transform_and_a_cpu_are_listeners() -> None:
    """torch's own tracers are modes or transforms."""
    plain = torch.ones(2)
    assert operator.listened_to([plain])
    with patch.object(Tensor, "is_cuda", True):
        assert not operator.listened_to([plain, torch.nn.Parameter(plain)])
        assert operator.listened_to([plain, plain.as_subclass(_Own)])
        with FakeTensorMode():
            assert operator.listened_to([plain])
        heard: list[bool] = []

        def mapped(x: Tensor) -> Tensor:
            heard.append(operator.listened_to([plain]))
            return x

        torch.func.vmap(mapped)(plain)
        assert heard == [True]


class _Own(Tensor):
    pass


@contextmanager
def functions_for_cuda(*operators: Any) -> Iterator[None]:
    """Lets operators call on CPU tensors what they call on CUDA ones."""
    if not operators:
        yield
        return
    with operators[0].set_kernel_enabled("cpu", enabled=False), functions_for_cuda(*operators[1:]):
        yield


def assert_as_promised(operator: Any, args: Sequence[Any]) -> Any:
    """Calls an operator and holds what it gives to what its fake kernel promises; gives it back."""
    real = operator(*args)
    with FakeTensorMode() as mode:
        fake = operator(*(mode.from_tensor(x) if isinstance(x, Tensor) else x for x in args))
    got, promised = ([x] if isinstance(x, Tensor) else list(x) for x in (real, fake))
    assert len(got) == len(promised)
    for index, (one, other) in enumerate(zip(got, promised, strict=True)):
        assert _described(one) == _described(other), index
    memory = [x.untyped_storage()._cdata for x in (*got, *args) if isinstance(x, Tensor)]
    own = memory[: len(got)]
    assert len(set(own)) == len(own)
    assert not set(own) & set(memory[len(got) :])
    return real


def _described(tensor: Tensor) -> tuple[Any, ...]:
    strides = tuple(stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1)
    return tuple(tensor.shape), strides, tensor.dtype, tensor.device, tensor.storage_offset()


@pytest.mark.parametrize(
    ("name", "dtype"),
    in_every_type(LINEAR, {"exp", "one_pass_log", "both_ways_log", "packed", "grouped_log", "wide"}, {"exp"}),
)
def test_linear_attention_gives_what_its_fake_kernels_promise(name: str, dtype: torch.dtype) -> None:
    call = single(draw(LINEAR[name]), dtype)
    with functions_for_cuda(fused_forward, fused_backward):
        output, norms, kv, keys, scale, *segments = assert_as_promised(fused_forward, call.flatten())
        assert (scale.numel() > 0) == call.log_space
        grads = (output, torch.zeros_like(kv), torch.zeros_like(keys))
        assert_as_promised(fused_backward, (*grads, output, norms, scale, *segments, *call.flatten()))


@pytest.mark.parametrize("name", ["exp", "grouped", "one_pass_log"])
def test_it_gives_it_for_tensors_that_lie_otherwise(name: str) -> None:
    """Tokens before heads, as projections leave them; a state and a bias in half precision; an expanded gradient."""
    case = replace(LINEAR[name], state=True)
    given = single(draw(case))
    other: dict[str, Any] = {}
    for name, x in tensors_of(given).items():
        if name in ("q", "k", "v"):
            other[name] = x.transpose(1, 2).contiguous().transpose(1, 2)
        elif name.startswith("initial"):
            other[name] = x.mT.contiguous().mT.half()
        elif name != "mask":
            other[name] = x.half()
    call = replace(given, **other)
    with functions_for_cuda(fused_forward, fused_backward):
        output, norms, kv, keys, scale, *segments = assert_as_promised(fused_forward, call.flatten())
        grads = (torch.ones(()).expand_as(output), torch.zeros(()).expand_as(kv), torch.zeros(()).expand_as(keys))
        assert_as_promised(fused_backward, (*grads, output, norms, scale, *segments, *call.flatten()))


@pytest.mark.parametrize(("name", "dtype"), in_every_type(DECODED, {"exp", "softmax", "grouped_log"}, {"exp"}))
def test_decoding_gives_what_its_fake_kernels_promise(name: str, dtype: torch.dtype) -> None:
    call = single(draw(DECODED[name]), dtype)
    state = (call.initial_kv, call.initial_k, call.initial_scale)
    with functions_for_cuda(fused_decode, fused_decode_):
        output, *after = assert_as_promised(fused_decode, call.flatten())
        assert torch.equal(assert_as_promised(fused_decode_, call.flatten()), output)
    assert all(torch.equal(one, other) for one, other in zip(state, after, strict=True) if one is not None)


@pytest.mark.parametrize(("name", "dtype"), in_every_type(HYBRID, {"log", "grouped"}, {"log"}))
def test_the_hybrid_gives_what_its_fake_kernels_promise(name: str, dtype: torch.dtype) -> None:
    case = HYBRID[name]
    given = single_hybrid(draw_hybrid(case))
    cast: dict[str, Any] = {
        name: x.to(dtype)
        for name, x in given.differentiable().items()
        if not (case.log_space and name.startswith("far"))
    }
    call = replace(given, **cast)
    with functions_for_cuda(fused_hybrid, fused_hybrid_backward):
        output, *rows = assert_as_promised(fused_hybrid, call.flatten())[:4]
        assert_as_promised(fused_hybrid_backward, (output, output, *rows, *call.flatten()))


def test_the_hybrid_s_gates_and_mask_may_lie_as_they_like() -> None:
    case = HybridCase(n=6, window=3, b=2, hk=1, mask=True, log_space=True)
    given = single_hybrid(draw_hybrid(case))
    assert given.mask is not None
    gates, masks = given.gate_log.repeat_interleave(2)[::2], given.mask.repeat_interleave(3, 1)[:, ::3]
    results = []
    with functions_for_cuda(fused_hybrid, fused_hybrid_backward):
        for call in (given, replace(given, gate_log=gates, mask=masks)):
            output, *rows = fused_hybrid(*call.flatten())[:4]
            found = fused_hybrid_backward(output, output, *rows, *call.flatten())
            results.append((output, *found))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("with_gradients", [True, False])
@pytest.mark.parametrize("name", ["plain", "log", "grouped_and_padded", "both_ways_log"])
def test_distillation_gives_what_its_fake_kernel_promises(name: str, with_gradients: bool) -> None:
    call = replace(single_distillation(draw_distillation(name)), with_gradients=with_gradients)
    for backend in ("triton", "torch"):
        got = assert_as_promised(distillation, replace(call, backend=backend).flatten())
        assert int(got[4]) == ("torch", "triton").index(backend)


@pytest.mark.parametrize("name", [pytest.param("exp", marks=pytest.mark.slow), "both_ways", "packed_log"])
def test_linear_attention_passes_opcheck(name: str) -> None:
    call = learning(single(draw(replace(LINEAR[name], b=1, hk=1))))
    with functions_for_cuda(fused_forward, fused_backward):
        torch.library.opcheck(fused_forward, call.flatten())


@pytest.mark.parametrize("operator", [fused_decode, fused_decode_])
@pytest.mark.parametrize("name", ["exp", "softmax"])
def test_decoding_passes_opcheck(operator: Any, name: str) -> None:
    with functions_for_cuda(operator):
        torch.library.opcheck(operator, single(draw(DECODED[name])).flatten())


@pytest.mark.parametrize("name", ["plain", "log"])
def test_the_hybrid_passes_opcheck(name: str) -> None:
    call = learning_hybrid(single_hybrid(draw_hybrid(HYBRID[name])))
    with functions_for_cuda(fused_hybrid, fused_hybrid_backward):
        torch.library.opcheck(fused_hybrid, call.flatten())


@pytest.mark.parametrize("with_gradients", [True, False])
def test_distillation_by_triton_passes_opcheck(with_gradients: bool) -> None:
    given = single_distillation(draw_distillation("grouped_and_padded"))
    call = replace(given, with_gradients=with_gradients, backend="triton")
    torch.library.opcheck(distillation, call.flatten())


@pytest.mark.parametrize("kernel", ["torch", "triton"])
@pytest.mark.parametrize("name", ["exp", "softmax"])
def test_the_backward_operator_passes_opcheck(name: str, kernel: str) -> None:
    given = single(draw(replace(LINEAR[name], hk=1, state=True))).flatten()
    operators = (fused_forward, fused_backward) if kernel == "triton" else ()
    with functions_for_cuda(*operators):
        output, norms, kv, keys, *others = fused_forward(*given)
        torch.library.opcheck(fused_backward, (output, kv, keys, output, norms, *others, *given))


@pytest.mark.parametrize("kernel", ["torch", "triton"])
def test_the_hybrid_s_backward_operator_passes_opcheck(kernel: str) -> None:
    given = single_hybrid(draw_hybrid(HYBRID["log"])).flatten()
    operators = (fused_hybrid, fused_hybrid_backward) if kernel == "triton" else ()
    with functions_for_cuda(*operators):
        output, *rows = fused_hybrid(*given)[:4]
        torch.library.opcheck(fused_hybrid_backward, (output, output, *rows, *given))


def test_gradients_through_the_operator_are_those_of_the_torch_forms() -> None:
    case = replace(LINEAR["grouped_log"], state=True)
    exact = draw(case)
    expected, cotangents = linear_reference(exact)
    call = single(exact)
    for leaf in call.differentiable().values():
        leaf.requires_grad_()
    with functions_for_cuda(fused_forward, fused_backward):
        output, _, kv, keys, scale, *_ = fused_forward(*call.flatten())
        # A state in log space means something only with its shift.
        assert expected.state.log_scale is not None
        factor = (scale.double() - expected.state.log_scale).exp()
        cotangents = (cotangents[0], cotangents[1] * factor[..., None], cotangents[2] * factor)
        torch.autograd.backward((output, kv, keys), [x.float() for x in cotangents])
    for name, leaf in call.differentiable().items():
        assert leaf.grad is not None
        assert relative(leaf.grad, expected.gradients[name]) < 1e-5, name

"""Calls whose tensors do not fit each other are refused; tensors that fit may lie in memory as they like."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hedgebench.kernels.fused.call import Call
from hedgebench.kernels.fused.checks import check_call, check_changed_in_place, check_devices
from hedgebench.kernels.fused.choose import why_not_fused
from hedgebench.kernels.fused.op import fused_decode, fused_decode_, fused_forward
from hedgebench.kernels.hedgehog import chunk_hedgehog_attn, chunk_linear_attn, fused_recurrent_hedgehog_attn
from hedgebench.kernels.state import empty_state

from ..fused_cases import Case, draw, single, tensors_of
from ..other_process import OtherProcess

B, H, HK, N, D, W, DV = 2, 4, 2, 5, 8, 6, 7


def call(**changed: Any) -> None:
    """Checks a call of grouped queries with a map of both halves, of which something is changed."""
    given: dict[str, Any] = {
        "q": torch.ones(B, H, N, D), "k": torch.ones(B, HK, N, D), "v": torch.ones(B, HK, N, DV),
        "q_weight": torch.ones(H, D, W), "k_weight": torch.ones(HK, D, W), "q_bias": torch.ones(H, W),
        "k_bias": torch.ones(HK, W), "initial_kv": torch.ones(B, HK, 2 * W, DV),
        "initial_k": torch.ones(B, HK, 2 * W), "mask": torch.ones(B, N, dtype=torch.bool),
    } | changed  # fmt: skip
    check_call(Call(**given, feature_map="softmax", negate=True))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "keys of another size": ({"k": torch.ones(B, HK, N, 9)}, r"k must be \[2, 2, 5, 8\].*got \[2, 2, 5, 9\]"),
    "keys of another batch": ({"k": torch.ones(3, HK, N, D)}, r"k must be \[2, 2, 5, 8\].*got \[3, 2, 5, 8\]"),
    "values of other tokens": ({"v": torch.ones(B, HK, 4, DV)}, r"v must be \[2, 2, 5, 7\].*got \[2, 2, 4, 7\]"),
    "values of other heads": ({"v": torch.ones(B, H, N, DV)}, r"v must be \[2, 2, 5, 7\].*got \[2, 4, 5, 7\]"),
    "a mask of other tokens": ({"mask": torch.ones(B, 4, dtype=torch.bool)}, r"bool \[2, 5\].*got bool \[2, 4\]"),
    "a mask of numbers": ({"mask": torch.ones(B, N, dtype=torch.int64)}, r"must be bool \[2, 5\].*got int64 \[2, 5\]"),
    "a map of the keys' heads": ({"q_weight": torch.ones(HK, D, W)}, r"q_weight must be \[4, 8, 6\].*\[2, 8"),
    "maps of two widths": ({"k_weight": torch.ones(HK, D, 9)}, r"k_weight must be \[2, 8, 6\].*got \[2, 8, 9\]"),
    "a bias of another width": ({"k_bias": torch.ones(HK, 9)}, r"k_bias must be \[2, 6\].*got \[2, 9\]"),
    "one bias": ({"k_bias": None}, "give both or neither"),
    "a state of one half": ({"initial_kv": torch.ones(B, HK, W, DV)}, r"state.kv must be \[2, 2, 12, 7\].*\[2, 2, 6"),
    "a state of one sequence": ({"initial_kv": torch.ones(1, HK, 2 * W, DV)}, r"kv must be \[2, 2, 12, 7\].*\[1, 2"),
    "a state of other sums": ({"initial_k": torch.ones(B, HK, W)}, r"state.k must be \[2, 2, 12\].*got \[2, 2, 6\]"),
    "a plain state in log space": ({"log_space": True}, "has no log_scale, and log features need one"),
    "a log state outside it": ({"initial_scale": torch.ones(B, HK, 2 * W)}, "has a log_scale, and plain features"),
    "a shift of another size": (
        {"log_space": True, "initial_scale": torch.ones(B, HK, W)}, r"state.log_scale must be \[2, 2, 12\].*\[2, 2, 6\]"
    ),
    "packed sequences in a batch": ({"cu_seqlens": torch.tensor([0, 5])}, "batch of 1, got a batch of 2"),
    "tensors on two devices": ({"v": torch.ones(B, HK, N, DV, device="meta")}, "one device, got cpu and meta"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_call_that_does_not_fit_is_refused_with_what_would(name: str) -> None:
    changed, message = WRONG[name]
    call()
    with pytest.raises(ValueError, match=message):
        call(**changed)


def test_packed_sequences_have_a_state_each() -> None:
    packed: dict[str, Any] = {
        "q": torch.ones(1, H, N, D), "k": torch.ones(1, HK, N, D), "v": torch.ones(1, HK, N, DV), "mask": None,
        "cu_seqlens": torch.tensor([0, 2, 4, 5]), "initial_kv": torch.ones(3, HK, 2 * W, DV),
        "initial_k": torch.ones(3, HK, 2 * W),
    }  # fmt: skip
    call(**packed)
    with pytest.raises(ValueError, match=r"state.kv must be \[3, 2, 12, 7\]"):
        call(**packed | {"initial_kv": torch.ones(1, HK, 2 * W, DV)})
    with pytest.raises(ValueError, match=r"integers \[sequences \+ 1\], got float32 \[3\]"):
        call(**packed | {"cu_seqlens": torch.tensor([0.0, 2.0, 5.0])})


def test_every_call_is_checked() -> None:
    phi = torch.rand(1, 1, 4, 3)
    weight = torch.rand(1, 3, 2)
    log_state = empty_state(torch.rand(1, 1, 4, 4), phi, log_space=True)
    plain_state = empty_state(phi, phi)
    with pytest.raises(ValueError, match="has a log_scale"):
        chunk_hedgehog_attn(phi, phi, phi, weight, weight, feature_map="softmax", initial_state=log_state)
    with pytest.raises(ValueError, match="has a log_scale"):
        fused_recurrent_hedgehog_attn(phi, phi, phi, weight, weight, feature_map="softmax", state=log_state)
    with pytest.raises(ValueError, match="has no log_scale"):
        chunk_linear_attn(phi, phi, phi, log_space=True, initial_state=plain_state)
    with pytest.raises(ValueError, match=r"state.kv must be \[1, 1, 4, 3\]"):
        chunk_hedgehog_attn(phi, phi, phi, weight, weight, feature_map="softmax", initial_state=plain_state)


_UNCHECKED_SHAPES = """
import torch
from hedgebench.kernels.distillation.loss import attention_distillation_loss
from hedgebench.kernels.hedgehog import chunk_linear_attn
from hedgebench.kernels.hybrid.attention import hybrid_attention
phi = torch.rand(1, 2, 4, 3)
window = {'window': 2, 'gate_log': torch.zeros(2), 'positions': torch.arange(4)[None]}
calls = (
    lambda: chunk_linear_attn(phi, phi, phi[:, :, :3]),
    lambda: chunk_linear_attn(phi, phi, phi, key_padding_mask=torch.ones(1, 4)),
    lambda: hybrid_attention(phi, phi, phi, phi, lambda k, _: k, **window | {'gate_log': torch.zeros(1)}),
    lambda: hybrid_attention(phi, phi, phi, phi, lambda k, _: k, **window, key_padding_mask=torch.ones(1, 4)),
    lambda: hybrid_attention(phi, phi, phi[:, :, :3], phi, lambda k, _: k, **window),
    lambda: attention_distillation_loss(phi, phi, phi, phi[..., :2], causal=True),
    lambda: attention_distillation_loss(phi, phi, phi, phi, causal=True, key_padding_mask=torch.ones(1, 4)),
)
for call in calls:
    try:
        call()
    except ValueError as error:
        print(error)
"""

_MASK_MESSAGE = "key_padding_mask must be bool [1, 4], true at real tokens, got float32 [1, 4]"

_MESSAGES = (
    "v must be [1, 2, 4, 3] to fit the rest of the call, got [1, 2, 3, 3]",
    _MASK_MESSAGE,
    "gate_log must be [2] to fit the rest of the call, got [1]",
    _MASK_MESSAGE,
    "v must be [1, 2, 4, 3] to fit the rest of the call, got [1, 2, 3, 3]",
    "phi_k must be [1, 2, 4, 3] to fit the rest of the call, got [1, 2, 4, 2]",
    _MASK_MESSAGE,
)


def test_it_is_checked_where_no_checker_of_shapes_is_installed(unchecked: OtherProcess) -> None:
    """Here the annotations of public calls are checked before their code runs."""
    assert tuple(unchecked.run(_UNCHECKED_SHAPES).splitlines()) == _MESSAGES


def test_all_devices_are_looked_at() -> None:
    here, there = torch.ones(1), torch.ones(1, device="meta")
    check_devices(here, None, here)
    with pytest.raises(ValueError, match="cpu and meta"):
        check_devices(here, None, there)


@pytest.mark.parametrize("part", ["kv", "k", "log_scale"])
@pytest.mark.parametrize("kind", ["half", "strided"])
def test_a_state_changed_in_place_lies_as_the_kernel_reads_it(part: str, kind: str) -> None:
    state = empty_state(torch.rand(1, 2, 4, 3), torch.rand(1, 2, 4, 3), log_space=True)
    check_changed_in_place(state)
    tensor = getattr(state, part)
    other = tensor.half() if kind == "half" else tensor.mT.contiguous().mT
    with pytest.raises(ValueError, match=rf"got state\.{part} of float{16 if kind == 'half' else 32} .* and strides"):
        check_changed_in_place(replace(state, **{part: other}))


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("kind", ["half", "strided"])
def test_decoding_in_place_refuses_other_states(kind: str, backend: str) -> None:
    given = single(draw(Case("exp", n=1, state=True)))
    assert given.initial_kv is not None
    kv = given.initial_kv.half() if kind == "half" else given.initial_kv.mT.contiguous().mT
    with on(backend, fused_decode_), pytest.raises(ValueError, match="must be contiguous and float32"):
        fused_decode_(*replace(given, initial_kv=kv).flatten())


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_decoding_to_a_new_state_reads_any_old_one(backend: str) -> None:
    """Of numbers that half precision holds, so that all must give the same to the bit."""
    given = with_state(single(draw(Case("exp", n=1, state=True))), lambda x: x.half().float())
    with on(backend, fused_decode):
        expected = fused_decode(*given.flatten())
        for change in (torch.Tensor.half, lambda x: x.mT.contiguous().mT, lambda x: x.half().mT.contiguous().mT):
            got = fused_decode(*with_state(given, change).flatten())
            assert all(torch.equal(one, two) for one, two in zip(got, expected, strict=True))


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("form", ["chunk", "fused_chunk"])
def test_a_mask_and_a_state_may_lie_as_they_like(form: str, backend: str) -> None:
    case = Case("exp", b=2, n=9, mask=True, state=True, form=form)
    given = with_state(single(draw(case)), lambda x: x.half().float())
    assert given.mask is not None
    strided = given.mask.repeat_interleave(3, 1)[:, ::3]
    assert strided.stride(1) == 3
    with on(backend, fused_forward):
        expected = fused_forward(*given.flatten())
        other = with_state(replace(given, mask=strided), lambda x: x.mT.contiguous().mT.half())
        got = fused_forward(*other.flatten())
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


def test_a_state_of_float64_is_left_to_torch() -> None:
    given = single(draw(Case("exp", state=True)))
    assert "float64" not in why_not_fused(given)
    assert given.initial_kv is not None
    wide = replace(given, initial_kv=given.initial_kv.double())
    assert "the initial state is float64, but they sum in float32" in why_not_fused(wide)


def with_state(call: Call, change: Callable[[Tensor], Tensor]) -> Call:
    """Gives the call with the tensors of its initial state changed."""
    state = {name: change(x) for name, x in tensors_of(call).items() if name.startswith("initial")}
    return replace(call, **state)  # type: ignore[arg-type]


def on(backend: str, operator: Any) -> Any:
    """On "triton" the operator calls on CPU tensors what it calls on CUDA ones, in the interpreter."""
    if backend == "torch":
        return nullcontext()
    pytest.importorskip("triton")
    from hedgebench.kernels.triton.tiles import interpreting

    if not interpreting():
        pytest.skip("on a GPU the suite marked gpu runs the kernels")
    return operator.set_kernel_enabled("cpu", enabled=False)

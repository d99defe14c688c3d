"""The operators as torch sees them: checks, compilation, autocast, gradients; on CPU, where the torch forms run."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hedgebench.kernels.fused.call import Call
from hedgebench.kernels.fused.choose import choose_form, why_not_fused
from hedgebench.kernels.fused.op import fused_decode, fused_decode_, fused_forward
from hedgebench.kernels.hedgehog import chunk_hedgehog_attn, chunk_linear_attn, fused_recurrent_hedgehog_attn
from hedgebench.kernels.linear.naive import linear_attention_naive
from hedgebench.kernels.maps.learned import hedgehog_features
from hedgebench.kernels.state import LinearState

from ..fused_cases import Case, draw, learning, single
from ..other_process import OtherProcess

CASES = {
    "map": Case("exp", n=9, h=4, hk=2, bias=True, mask=True),
    "features": Case("identity", n=9, normalize=False),
    "state": Case("softmax", n=9, b=2, state=True),
    "both_ways": Case("exp_max", n=9, causal=False),
    "packed": Case("softmax_joint", n=9, ends=(0, 4, 9)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_operator_passes_opcheck(name: str) -> None:
    torch.library.opcheck(fused_forward, learning(single(draw(CASES[name]))).flatten())


@pytest.mark.parametrize("operator", [fused_decode, fused_decode_])
@pytest.mark.parametrize("name", ["exp", "softmax"])
def test_the_decode_operators_pass_opcheck(operator: Any, name: str) -> None:
    torch.library.opcheck(operator, single(draw(Case(name, n=2, state=True))).flatten())


def test_a_token_is_decoded_on_a_cpu_without_what_an_operator_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    call = single(draw(Case("softmax", n=1, state=True)))
    maps = {name: getattr(call, name) for name in ("q_weight", "k_weight")}
    state = call.initial
    assert state is not None
    expected = fused_decode_(*replace(call, initial_kv=state.kv.clone(), initial_k=state.k.clone()).flatten())
    monkeypatch.setattr("hedgebench.kernels.hedgehog.decode_in_place", None)
    options: dict[str, Any] = {"feature_map": "softmax", "eps": call.eps}
    result = fused_recurrent_hedgehog_attn(call.q, call.k, call.v, **maps, state=state, **options)
    assert torch.equal(result.output, expected)


@pytest.mark.parametrize("name", CASES)
def test_gradients_match_finite_differences(name: str) -> None:
    case = CASES[name]
    call = draw(replace(case, b=1, h=2, hk=1, n=5, d=2, w=2, dv=3, ends=(0, 2, 5) if case.ends else None))
    leaves = {name: x for name, x in learning(call).differentiable().items() if x.requires_grad and "bias" not in name}

    def outputs(*tensors: Tensor) -> tuple[Tensor, ...]:
        changed: dict[str, Any] = dict(zip(leaves, tensors, strict=True))
        output, _, kv, keys, *_ = fused_forward(*replace(call, **changed).flatten())
        # In log space a state means something only with its shift, through which no gradient flows.
        return (output,) if case.options.log_space else (output, kv, keys)

    torch.autograd.gradcheck(outputs, tuple(leaves.values()))


_COMPILED = """
from contextlib import ExitStack
from unittest.mock import patch
import torch
from hedgebench.kernels.hedgehog import chunk_hedgehog_attn, chunk_linear_attn, fused_recurrent_hedgehog_attn
from hedgebench.kernels.state import LinearState
from hedgebench.kernels import hedgehog
from hedgebench.kernels.fused import choose
torch.manual_seed(0)
q, k, v = (torch.randn(1, 2, 20, 16) for _ in range(3))
maps = [torch.randn(2, 16, 16) / 4 for _ in range(2)]
mask, ends, log_space = torch.rand(1, 20) > 0.3, torch.tensor([0, 7, 20]), '{feature_map}' == 'exp'
def state():
    return LinearState(torch.ones(1, 2, 32, 16), torch.ones(1, 2, 32), torch.zeros(1, 2, 32) if log_space else None)
def mapped(q, tokens=20, **options):
    step = [x[:, :, :tokens] for x in (q, k, v)]
    result = chunk_hedgehog_attn(*step, *maps, feature_map='{feature_map}', output_final_state=True, **options)
    return result.output, result.state.kv, result.state.k
def recurrent(q):
    after, step = state(), [x[:, :, :1] for x in (q, k, v)]
    result = fused_recurrent_hedgehog_attn(*step, *maps, state=after, feature_map='{feature_map}')
    return result.output, after.kv, after.k
def features(q, **options):
    given = (q, k) if log_space else (q.exp(), k.exp())
    return chunk_linear_attn(*given, v, log_space=log_space, **options).output,
calls = {
    'mask': lambda q: mapped(q, key_padding_mask=mask),
    'both_ways': lambda q: mapped(q, causal=False, key_padding_mask=mask),
    'packed': lambda q: mapped(q, cu_seqlens=ends),
    'state': lambda q: mapped(q, initial_state=state()),
    'few_tokens': lambda q: mapped(q, tokens=3, initial_state=state()),
    'recurrent': recurrent,
    'features': features,
    'features_both_ways': lambda q: features(q, causal=False),
    'packed_features': lambda q: features(q, cu_seqlens=ends),
}
def check(name, call):
    print(name)
    torch._dynamo.reset()
    trained = name not in ('few_tokens', 'recurrent')
    eager_q, compiled_q = (q.clone().requires_grad_(trained) for _ in range(2))
    expected, compiled = call(eager_q), torch.compile(call, fullgraph=True, backend='aot_eager')(compiled_q)
    torch.testing.assert_close(compiled, expected)
    if trained:
        expected[0].square().sum().backward()
        compiled[0].square().sum().backward()
        torch.testing.assert_close(compiled_q.grad, eager_q.grad)
with ExitStack() as kernels:
    if {as_on_cuda}:
        for module in (choose, hedgehog):
            kernels.enter_context(patch.object(module, 'why_not_fused', lambda *_, **__: ''))
    for name, call in calls.items():
        check(name, call)
"""


@pytest.mark.parametrize("feature_map", ["exp", "softmax"])
@pytest.mark.parametrize("as_on_cuda", [False, True])
def test_compiled_calls_have_no_graph_break_and_the_same_results(
    unchecked: OtherProcess, as_on_cuda: bool, feature_map: str
) -> None:
    """On CUDA calls go by the operators; so they do here where they are told that the kernels run."""
    unchecked.run(_COMPILED.replace("{as_on_cuda}", str(as_on_cuda)).replace("{feature_map}", feature_map))


def test_autocast_casts_queries_keys_and_values() -> None:
    tensors = single(draw(Case("softmax", n=20))).flatten()[:5]
    with torch.autocast("cpu", torch.bfloat16):
        result = chunk_hedgehog_attn(*tensors)
    exact = chunk_hedgehog_attn(*tensors)
    assert result.output.dtype == torch.bfloat16
    torch.testing.assert_close(result.output.float(), exact.output, rtol=0, atol=0.05)


@pytest.mark.parametrize("feature_map", ["exp", "exp_max", "softmax", "softmax_joint"])
def test_the_call_is_map_then_attention(feature_map: str) -> None:
    q, k, v, q_weight, k_weight, q_bias, k_bias, *_ = draw(Case(feature_map, n=13, h=4, hk=2, bias=True)).flatten()
    result = chunk_hedgehog_attn(q, k, v, q_weight, k_weight, q_bias, k_bias, feature_map=feature_map)
    phi_q = hedgehog_features(q, q_weight, q_bias, map=feature_map)
    phi_k = hedgehog_features(k, k_weight, k_bias, map=feature_map)
    expected = linear_attention_naive(phi_q, phi_k, v, causal=True, log_space=feature_map == "exp")
    torch.testing.assert_close(result.output, expected, rtol=1e-10, atol=1e-12)
    assert (result.kernel.form, result.kernel.backend) == ("chunk", "torch")


def test_packed_sequences_are_those_sequences() -> None:
    phi_q, phi_k, v, *_ = draw(Case("identity", n=20)).flatten()
    packed = chunk_linear_attn(phi_q, phi_k, v, cu_seqlens=torch.tensor([0, 7, 20]), output_final_state=True)
    alone = [chunk_linear_attn(phi_q[:, :, part], phi_k[:, :, part], v[:, :, part], output_final_state=True)
             for part in (slice(0, 7), slice(7, 20))]  # fmt: skip
    torch.testing.assert_close(packed.output, torch.cat([part.output for part in alone], dim=2))
    assert packed.state is not None
    for index, part in enumerate(alone):
        assert part.state is not None
        torch.testing.assert_close(packed.state.kv[index], part.state.kv[0])


def test_decoding_in_place_goes_on_where_a_prompt_ended() -> None:
    q, k, v, q_weight, k_weight, *_ = single(draw(Case("exp", n=12, h=4, hk=2))).flatten()
    whole = chunk_hedgehog_attn(q, k, v, q_weight, k_weight).output
    prompt = chunk_hedgehog_attn(q[:, :, :9], k[:, :, :9], v[:, :, :9], q_weight, k_weight, output_final_state=True)
    state = prompt.state
    assert isinstance(state, LinearState)
    for token in range(9, 12):
        step = [x[:, :, token : token + 1] for x in (q, k, v)]
        decoded = fused_recurrent_hedgehog_attn(step[0], step[1], step[2], q_weight, k_weight, state=state)
        torch.testing.assert_close(decoded.output[:, :, 0], whole[:, :, token], rtol=1e-5, atol=1e-5)
        assert decoded.state is state
        assert (decoded.kernel.form, decoded.kernel.backend) == ("recurrent", "torch")


def test_wrong_calls_are_refused_with_what_is_allowed() -> None:
    q, k, v, q_weight, k_weight, *_ = single(draw(Case("exp", b=2, n=6))).flatten()
    with pytest.raises(ValueError, match=r"unknown feature map 'softmx'.*did you mean softmax"):
        chunk_hedgehog_attn(q, k, v, q_weight, k_weight, feature_map="softmx")
    with pytest.raises(ValueError, match=r"unknown form 'recurrent'.*fused_chunk"):
        chunk_hedgehog_attn(q, k, v, q_weight, k_weight, form="recurrent")
    with pytest.raises(ValueError, match=r"unknown backend 'cuda'.*triton"):
        chunk_hedgehog_attn(q, k, v, q_weight, k_weight, backend="cuda")
    with pytest.raises(ValueError, match="tensors are on cpu"):
        chunk_hedgehog_attn(q, k, v, q_weight, k_weight, backend="triton")
    with pytest.raises(ValueError, match="give both or neither"):
        chunk_hedgehog_attn(q, k, v, q_weight, k_weight, torch.zeros(2, 16))
    with pytest.raises(ValueError, match="batch of 1, got a batch of 2"):
        chunk_hedgehog_attn(q, k, v, q_weight, k_weight, cu_seqlens=torch.tensor([0, 6]))
    with pytest.raises(ValueError, match=r"cu_seqlens must rise from 0 to the 6 tokens given.*\[0, 4\]"):
        chunk_hedgehog_attn(q[:1], k[:1], v[:1], q_weight, k_weight, cu_seqlens=torch.tensor([0, 4]))


def _given(dim: int, width: int | None, values: int, dtype: torch.dtype) -> Call:
    q, v = torch.empty(1, 100, 600, dim, dtype=dtype), torch.empty(1, 100, 600, values, dtype=dtype)
    weight = None if width is None else torch.empty(100, dim, width, dtype=dtype)
    return Call.of(q, q, v, q_weight=weight, k_weight=weight)


@pytest.mark.parametrize(
    ("dim", "width", "values", "dtype", "refused"),
    [
        (256, 256, 256, torch.bfloat16, True),
        (128, 128, 128, torch.float16, False),
        (128, 256, 128, torch.float16, True),
        (128, 128, 256, torch.float32, True),
        (256, None, 128, torch.float16, False),
        (256, None, 256, torch.float32, True),
        (300, None, 256, torch.bfloat16, False),
    ],
)
def test_sums_that_registers_do_not_hold_are_refused(
    dim: int, width: int | None, values: int, dtype: torch.dtype, refused: bool
) -> None:
    given = _given(dim, width, values, dtype)
    assert ("do not fit into a program's registers" in why_not_fused(given)) == refused
    assert "registers" not in why_not_fused(given, decoding=True)


def test_one_segment_is_chosen_where_heads_fill_the_chip() -> None:
    assert choose_form(_given(64, 64, 64, torch.bfloat16)) == "chunk"
    assert choose_form(_given(128, 128, 64, torch.bfloat16)) == "fused_chunk"
    assert choose_form(_given(300, None, 128, torch.bfloat16)) == "fused_chunk"
    assert choose_form(replace(_given(128, 128, 64, torch.bfloat16), causal=False)) == "chunk"
    assert choose_form(_given(300, None, 64, torch.bfloat16)) == "chunk"


def test_log_features_are_not_rounded_to_half_precision() -> None:
    """bfloat16 holds 8.3 as 8.3125: the feature would be 1.3 percent too large."""
    v = torch.tensor([[[[1.0], [0.0]]]], dtype=torch.bfloat16)
    phi_q, phi_k = torch.zeros(1, 1, 2, 1), torch.tensor([[[[0.0], [8.3]]]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = chunk_linear_attn(phi_q, phi_k, v, log_space=True, output_final_state=True)
    assert result.output.dtype == torch.bfloat16
    assert result.state is not None
    assert result.state.k.item() == pytest.approx(1.0 + math.exp(-8.3), rel=1e-6)
    assert result.state.log_scale is not None
    assert result.state.log_scale.item() == pytest.approx(8.3, rel=1e-6)

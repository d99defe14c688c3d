"""The Triton kernels on a GPU: held to float64, and to what the type costs a plain computation.

bfloat16 results and gradients may be twice as far from float64 as the plain computation in bfloat16 is, which is
FlashAttention's criterion. float32 is held to 1e-5 of a result's largest number. Products of float16 are TF32, which
cuts operands off after 10 bits: outputs are held to 4e-3, gradients, of products of products, to 1e-2.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from hedgebench.kernels.fused.call import Call
from hedgebench.kernels.fused.choose import DECODED_TOKENS
from hedgebench.kernels.hedgehog import chunk_hedgehog_attn, chunk_linear_attn, fused_recurrent_hedgehog_attn
from hedgebench.kernels.state import LinearState
from hedgebench.kernels.triton.tiles import interpreting

from .fused_cases import Case, draw, single, tensors_of
from .gpu_cases import (
    DECODED,
    DISTILLED,
    HYBRID,
    LINEAR,
    Contest,
    decode_contest,
    distillation_contest,
    hybrid_contest,
    linear_contest,
)
from .oracles import beyond_rounding, beyond_share, cast, outcome

pytestmark = [
    pytest.mark.gpu,
    # A kernel of float32 products takes the compiler most of a minute.
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION is unset:UserWarning"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature:UserWarning"),
    pytest.mark.skipif(interpreting(), reason="TRITON_INTERPRET=1 is set, under which no kernel runs on the GPU"),
]

SINGLE_SHARE, HALF_SHARE, HALF_GRADIENT_SHARE = 1e-5, 4e-3, 1e-2

CANCELLING = "gradient of gate_log"
"""A sum over all rows, in which most of its terms cancel: ten times as wide."""

EXACTLY = ("identity", "exp", "exp_one_pass", "softmax", "softmax_one_pass", "bias_and_odd_sizes", "state_log",
           "both_ways", "packed_log", "taylor_state")  # fmt: skip
"""Cases also run in float32 and float16: each kernel at least once."""


def assert_within_bounds(contest: Contest, dtype: torch.dtype) -> None:
    got, exact = outcome(contest.kernels, contest.given), outcome(contest.plain, cast(contest.given, torch.float64))
    if dtype == torch.bfloat16:
        assert beyond_rounding(got, outcome(contest.plain, cast(contest.given, dtype)), exact) == {}
    else:
        assert beyond_share(got, exact, {name: _share(name, dtype) for name in exact}) == {}


def _share(name: str, dtype: torch.dtype) -> float:
    half = HALF_GRADIENT_SHARE if name.startswith("gradient") else HALF_SHARE
    return (SINGLE_SHARE if dtype == torch.float32 else half) * (10 if name == CANCELLING else 1)


@pytest.mark.parametrize("name", LINEAR)
def test_linear_attention_is_within_twice_the_rounding_of_bfloat16(name: str) -> None:
    assert_within_bounds(linear_contest(LINEAR[name], torch.bfloat16, "cuda", "triton"), torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", EXACTLY)
def test_linear_attention_of_other_types_is_within_its_share(name: str, dtype: torch.dtype) -> None:
    assert_within_bounds(linear_contest(LINEAR[name], dtype, "cuda", "triton"), dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", DECODED)
def test_decoding_is_within_bounds(name: str, dtype: torch.dtype) -> None:
    assert_within_bounds(decode_contest(DECODED[name], dtype, "cuda"), dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", HYBRID)
def test_the_hybrid_is_within_bounds(name: str, dtype: torch.dtype) -> None:
    assert_within_bounds(hybrid_contest(HYBRID[name], dtype, "cuda", "triton"), dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", DISTILLED)
def test_distillation_is_within_bounds(name: str, dtype: torch.dtype) -> None:
    assert_within_bounds(distillation_contest(DISTILLED[name], dtype, "cuda", "triton"), dtype)


@pytest.mark.parametrize("form", ["chunk", "fused_chunk"])
@pytest.mark.parametrize("spread", [30.0, 100.0])
def test_log_features_of_any_size_keep_their_row(form: str, spread: float) -> None:
    """float32 holds an exponent of a few hundred to 1e-4; a lost row would be wrong by its whole size."""
    case = Case("exp", n=100, form=form, spread=spread, mask=True)
    tensors = tensors_of(draw(case))
    given = {name: x.to("cuda", torch.float32) for name, x in tensors.items() if name != "mask"}
    options: dict[str, Any] = {"feature_map": "exp", "key_padding_mask": tensors["mask"].cuda()}
    names = ("q", "k", "v", "q_weight", "k_weight")
    exact = chunk_hedgehog_attn(*(given[name].double() for name in names), **options, backend="torch")
    got = chunk_hedgehog_attn(*(given[name] for name in names), **options, form=form, backend="triton")
    assert beyond_share({"output": got.output}, {"output": exact.output}, {"output": 1e-4}) == {}


DETERMINED: dict[str, Callable[[], Contest]] = {
    **{
        name: lambda name=name: linear_contest(LINEAR[name], torch.bfloat16, "cuda", "triton")  # type: ignore[misc]
        for name in ("softmax", "softmax_one_pass", "exp", "exp_one_pass", "both_ways", "taylor")
    },
    "decode": lambda: decode_contest(DECODED["exp"], torch.bfloat16, "cuda"),
    "hybrid": lambda: hybrid_contest(HYBRID["masked"], torch.bfloat16, "cuda", "triton"),
    "distillation": lambda: distillation_contest(DISTILLED["masked_log"], torch.float32, "cuda", "triton"),
}


@pytest.mark.parametrize("name", DETERMINED)
def test_two_calls_give_the_same_bits(name: str) -> None:
    contest = DETERMINED[name]()
    one, other = (outcome(contest.kernels, contest.given) for _ in range(2))
    assert all(torch.equal(one[result], other[result]) for result in one)


@pytest.mark.parametrize("name", DETERMINED)
def test_strided_inputs_give_the_same_bits(name: str) -> None:
    """Tokens before heads in memory, as projections leave them."""
    contest = DETERMINED[name]()
    turned = {
        name: x.transpose(1, 2).contiguous().transpose(1, 2) if name in ("q", "k", "v", "phi_q", "phi_k") else x
        for name, x in contest.given.items()
    }
    assert not turned["q"].is_contiguous()
    one, other = outcome(contest.kernels, contest.given), outcome(contest.kernels, turned)
    assert all(torch.equal(one[result], other[result]) for result in one)


@pytest.mark.parametrize("form", ["chunk", "fused_chunk"])
@pytest.mark.parametrize("feature_map", ["exp", "softmax"])
def test_the_future_moves_the_past_by_rounding_at_most(feature_map: str, form: str) -> None:
    """Shifts of a chunk in log space are maxima over its keys, later ones among them."""
    q, k, v, q_weight, k_weight = _layer(tokens=300)
    options: dict[str, Any] = {"feature_map": feature_map, "form": form, "backend": "triton"}
    before = chunk_hedgehog_attn(q, k, v, q_weight, k_weight, **options).output
    changed_k, changed_v = k.clone(), v.clone()
    changed_k[:, :, 270:] += 3.0
    changed_v[:, :, 270:] -= 5.0
    after = chunk_hedgehog_attn(q, changed_k, changed_v, q_weight, k_weight, **options).output
    step = torch.finfo(torch.bfloat16).eps * float(before.abs().max())
    torch.testing.assert_close(after[:, :, :270], before[:, :, :270], rtol=0, atol=step)
    assert torch.equal(after[:, :, :256], before[:, :, :256])


@pytest.mark.parametrize("axis", ["batch", "head", "token"])
def test_an_element_may_lie_past_two_to_the_31(axis: str) -> None:
    """Two of an axis, or 65 tokens, so far apart that the last starts 2**31 elements after the first."""
    needs_gib(6)
    shapes = {"batch": (2, 1, 40, 64), "head": (1, 2, 40, 64), "token": (1, 1, 65, 64)}
    shape, stride = shapes[axis], 2**31 if axis != "token" else 2**25
    strides = {"batch": (stride, 2560, 64, 1), "head": (2560, stride, 64, 1), "token": (4160, 4160, stride, 1)}[axis]
    memory = torch.empty(2**31 + 2**14, dtype=torch.bfloat16, device="cuda")
    generator = torch.Generator("cuda").manual_seed(0)
    near = torch.randn(shape, generator=generator, dtype=torch.bfloat16, device="cuda")
    far = memory.as_strided(shape, strides)
    far.copy_(near)
    weight = torch.randn(shape[1], 64, 64, generator=generator, dtype=torch.bfloat16, device="cuda") / 8
    results = []
    for x in (near, far):
        leaf = x.detach().requires_grad_()
        output = chunk_hedgehog_attn(leaf, leaf, leaf, weight, weight, feature_map="softmax", backend="triton").output
        results.append((output.detach(), *torch.autograd.grad(output.float().square().sum(), leaf)))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("feature_map", ["exp", "softmax"])
def test_tensors_of_more_than_two_to_the_31_elements(feature_map: str) -> None:
    """The last entries of a batch, as many as keep the number of segments, are those alone, gradients too."""
    needs_gib(70)
    batch, heads, tokens, dim = 513, 16, 4096, 64
    generator = torch.Generator("cuda").manual_seed(0)
    x = torch.randn(batch, heads, tokens, dim, generator=generator, dtype=torch.bfloat16, device="cuda")
    assert x.numel() > 2**31
    weight = torch.randn(heads, dim, dim, generator=generator, dtype=torch.bfloat16, device="cuda") / 8
    last, results = x[-9:], []
    assert Call(last, last, last, form="chunk").segments == Call(x, x, x, form="chunk").segments
    for part in (x, last):
        leaf = part.detach().requires_grad_()
        options: dict[str, Any] = {"feature_map": feature_map, "form": "chunk", "backend": "triton"}
        output = chunk_hedgehog_attn(leaf, leaf, leaf, weight, weight, **options).output
        (gradient,) = torch.autograd.grad(output, leaf, output.detach())
        results.append((output[-9:].detach().clone(), gradient[-9:].clone()))
        del leaf, output, gradient
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("feature_map", ["exp", "softmax"])
def test_decoding_never_waits_for_the_device(feature_map: str) -> None:
    case = Case(feature_map, n=1, state=True, d=64, dv=64)
    given: dict[str, Any] = {name: x.cuda() for name, x in tensors_of(single(draw(case), torch.bfloat16)).items()}
    state = LinearState(given.pop("initial_kv"), given.pop("initial_k"), given.pop("initial_scale", None))

    def step() -> None:
        fused_recurrent_hedgehog_attn(**given, state=state, feature_map=feature_map)

    _without_synchronising(step)


def test_a_few_tokens_after_a_state_are_decoded_without_waiting() -> None:
    q, k, v, q_weight, k_weight = _layer(tokens=DECODED_TOKENS)
    prompt = chunk_hedgehog_attn(q, k, v, q_weight, k_weight, output_final_state=True)

    @torch.no_grad()
    def step() -> None:
        result = chunk_hedgehog_attn(q, k, v, q_weight, k_weight, initial_state=prompt.state, output_final_state=True)
        assert (result.kernel.form, result.kernel.backend) == ("fused_recurrent", "triton")

    _without_synchronising(step)


def test_a_call_of_shapes_seen_before_never_waits_for_the_device() -> None:
    leaves = [x.requires_grad_() for x in _layer(tokens=300)]

    def step() -> None:
        q, k, v, q_weight, k_weight = leaves
        output = chunk_hedgehog_attn(q, k, v, q_weight, k_weight, output_final_state=True).output
        torch.autograd.grad(output.sum(), leaves)

    _without_synchronising(step)


def test_packed_ends_on_the_host_are_read_without_waiting() -> None:
    q, k, v = (x.abs() for x in _layer(tokens=300)[:3])
    ends = torch.tensor([0, 100, 300])
    _without_synchronising(lambda: chunk_linear_attn(q[:1], k[:1], v[:1], cu_seqlens=ends))


_OVERHEAD = """
import statistics, time, torch
from hedgebench.kernels.hedgehog import chunk_hedgehog_attn
q, k, v = (torch.randn(1, 2, 16, 64, dtype=torch.bfloat16, device='cuda') for _ in range(3))
weight = torch.randn(2, 64, 64, dtype=torch.bfloat16, device='cuda')
times = []
with torch.no_grad():
    for call in range(1100):
        if call % 50 == 0:
            torch.cuda.synchronize()
        start = time.perf_counter()
        chunk_hedgehog_attn(q, k, v, weight, weight, feature_map='softmax', form='{form}')
        times.append(time.perf_counter() - start)
print(statistics.median(times[100:]) * 1e6)
"""


@pytest.mark.parametrize("form", ["chunk", "fused_chunk"])
def test_a_call_takes_the_host_at_most_40_microseconds(form: str) -> None:
    """Median of 1,000 calls whose launches do not fill the queue; in a process where shapes are not checked."""
    program = _OVERHEAD.replace("{form}", form)
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr[-2000:]
    assert float(told.stdout) <= 40.0


_COMPILED = """
import torch
from hedgebench.kernels.distillation.loss import attention_distillation_loss
from hedgebench.kernels.hedgehog import chunk_hedgehog_attn, chunk_linear_attn
from hedgebench.kernels.hybrid.attention import hybrid_attention
torch.manual_seed(0)
q, k, v = (torch.randn(2, 2, 100, 64, dtype=torch.bfloat16, device='cuda') for _ in range(3))
weight = torch.randn(2, 64, 64, dtype=torch.bfloat16, device='cuda') / 8
ends = torch.tensor([0, 7, 100])
positions, gate = torch.arange(100, device='cuda').repeat(2, 1), torch.zeros(2, device='cuda')
calls = {
    'map': lambda q: chunk_hedgehog_attn(q, k, v, weight, weight, feature_map='exp').output,
    'both_ways': lambda q: chunk_hedgehog_attn(q, k, v, weight, weight, feature_map='exp', causal=False).output,
    'packed': lambda q: chunk_hedgehog_attn(q[:1], k[:1], v[:1], weight, weight, cu_seqlens=ends).output,
    'features': lambda q: chunk_linear_attn(q.exp(), k.exp(), v).output,
    'hybrid': lambda q: hybrid_attention(q, k, v, q.relu(), lambda k, _: k.relu(), window=16, gate_log=gate,
                                         positions=positions).output,
    'distillation': lambda q: attention_distillation_loss(q.detach(), k, q.exp(), k.exp(), causal=True).cross_entropy,
}
call = calls['{name}']
eager_q, compiled_q = (q.clone().requires_grad_() for _ in range(2))
expected, compiled = call(eager_q), torch.compile(call, fullgraph=True)(compiled_q)
torch.testing.assert_close(compiled, expected, rtol=2e-2, atol=2e-2)
expected.sum().backward()
compiled.sum().backward()
torch.testing.assert_close(compiled_q.grad, eager_q.grad, rtol=2e-2, atol=2e-2)
"""

_COMPILED_DECODING = """
import torch
from hedgebench.kernels.hedgehog import fused_recurrent_hedgehog_attn
from hedgebench.kernels.state import LinearState
torch.manual_seed(0)
q, k, v = (torch.randn(2, 2, 1, 64, dtype=torch.bfloat16, device='cuda') for _ in range(3))
weight = torch.randn(2, 64, 64, dtype=torch.bfloat16, device='cuda') / 8
def decoded(q):
    sums = torch.ones(2, 2, 128, 64, device='cuda')
    state = LinearState(sums, sums[..., 0].clone(), sums.new_zeros(2, 2, 128))
    result = fused_recurrent_hedgehog_attn(q, k, v, weight, weight, state=state, feature_map='exp')
    return result.output, state.kv, state.k, state.log_scale
expected, compiled = decoded(q), torch.compile(decoded, fullgraph=True)(q)
for one, other in zip(compiled, expected):
    torch.testing.assert_close(one, other)
"""


@pytest.mark.parametrize("name", ["map", "both_ways", "packed", "features", "hybrid", "distillation", "decoding"])
def test_a_compiled_call_is_one_graph_with_the_same_result(name: str) -> None:
    """In a process of its own: torch.compile does not look into the checks of shapes that run here."""
    program = _COMPILED_DECODING if name == "decoding" else _COMPILED.replace("{name}", name)
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr[-2000:]


def needs_gib(gib: int) -> None:
    """Skips a test where less memory is free."""
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0] / 2**30
    if free < gib:
        pytest.skip(f"needs {gib} GiB of GPU memory, {free:.0f} are free")


def _layer(tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    tensors = tensors_of(single(draw(Case("exp", b=2, n=tokens, d=64, dv=64)), torch.bfloat16))
    q, k, v, q_weight, k_weight = (x.cuda() for x in tensors.values())
    return q, k, v, q_weight, k_weight


def _without_synchronising(step: Callable[[], object]) -> None:
    """Runs a step once to compile its kernels, then twice where anything that waits for the device raises."""
    step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")

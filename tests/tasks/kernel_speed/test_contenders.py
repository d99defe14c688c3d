"""Contenders of the kernel benchmarks compute what they say, from the same tensors."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from hedgebench.adapters.base import UnsupportedError
from hedgebench.kernels.linear.naive import linear_attention_naive
from hedgebench.kernels.softmax.attention import softmax_attention
from hedgebench.tasks.kernel_speed import contenders, workloads
from hedgebench.tasks.kernel_speed.contenders import CONTENDERS, KernelInputs, compiled_map, make_inputs, map_features
from hedgebench.tasks.kernel_speed.shapes import KernelShape
from hedgebench.tasks.kernel_speed.workloads import WORKLOADS, backward

SHAPE, CPU = KernelShape(2, 24, 3, 8), torch.device("cpu")
ON_CUDA = ("fla", "fla-compiled-map", "softmax-cudnn")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def expected(inputs: KernelInputs, name: str) -> torch.Tensor:
    """The naive form in float64."""
    q, k, v, *weights = (leaf.double() for leaf in inputs.leaves)
    if name.startswith("softmax"):
        return softmax_attention(q, k, v, causal=True, backend="naive").output
    features = partial(map_features, feature_map="exp" if name == "hedgehog-exp" else "softmax")
    phi_q, phi_k = (features(x, w).transpose(1, 2) for x, w in zip((q, k), weights, strict=True))
    return linear_attention_naive(phi_q, phi_k, v, causal=True)


@pytest.mark.parametrize("name", [name for name in CONTENDERS if name not in ON_CUDA])
def test_a_contender_computes_its_attention(name: str) -> None:
    inputs = make_inputs(SHAPE, CPU, torch.float32)
    output, ran = CONTENDERS[name](inputs)
    torch.testing.assert_close(output.double(), expected(inputs, name), rtol=1e-4, atol=1e-5)
    assert ran.partition("/")[0] == ("softmax" if name.startswith("softmax") else "chunk")


def test_the_peer_s_layout_of_tokens_before_heads_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def chunk_linear_attn(q: Any, k: Any, v: Any, *, scale: float, normalize: bool) -> tuple[Any, None]:
        assert (scale, normalize) == (1.0, True)
        by_head = (x.transpose(1, 2) for x in (q, k, v))
        return linear_attention_naive(*by_head, causal=True).transpose(1, 2), None

    monkeypatch.setattr(contenders, "peer_function", lambda *_: chunk_linear_attn)
    inputs = make_inputs(SHAPE, CPU, torch.float32)
    output, ran = CONTENDERS["fla"](inputs)
    torch.testing.assert_close(output.double(), expected(inputs, "fla"), rtol=1e-4, atol=1e-5)
    assert ran == "chunk/fla"


@pytest.mark.parametrize("name", ON_CUDA)
def test_a_peer_without_kernels_for_the_processor_is_unsupported(name: str) -> None:
    with pytest.raises(UnsupportedError, match="run on CUDA; these tensors are on cpu"):
        CONTENDERS[name](make_inputs(SHAPE, CPU, torch.float32))


def test_inputs_are_the_same_for_everyone_and_lie_as_projections_leave_them() -> None:
    one, other = (make_inputs(SHAPE, CPU, torch.float32) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.leaves, other.leaves, strict=True))
    assert one.q.shape == (2, 3, 24, 8)
    assert one.q.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize(("work", "calls"), [
    ("forward", {"forward"}), ("backward", {"backward", "forward_backward"}), ("decode", {"decode"}),
    ("distillation", {"distillation"}),
])  # fmt: skip
def test_every_work_makes_calls_that_run(work: str, calls: set[str]) -> None:
    for name, prepare in WORKLOADS[work].items():
        if name not in ON_CUDA:
            prepared = prepare(SHAPE, CPU, torch.float32)
            assert set(prepared) == calls
            assert {"/" in call()[1] for call in prepared.values()} == {True}


def test_the_quadratic_loss_has_the_gradients_of_the_tiled_one() -> None:
    gradients = [WORKLOADS["distillation"][name](SHAPE, CPU, torch.float32)["distillation"]()[0]
                 for name in ("hedgehog-torch", "quadratic")]  # fmt: skip
    assert isinstance(gradients[0], tuple)
    assert isinstance(gradients[1], tuple)
    for tiled, quadratic in zip(*gradients, strict=True):
        torch.testing.assert_close(tiled, quadratic, rtol=1e-3, atol=1e-6)


def test_making_the_inputs_runs_no_attention() -> None:
    ran: list[str] = []

    def attend(inputs: KernelInputs) -> tuple[torch.Tensor, str]:
        ran.append("forward")
        return inputs.q * inputs.v, "it/torch"

    calls = backward(attend, SHAPE, CPU, torch.float32)
    assert ran == []
    calls["forward_backward"]()
    assert ran == ["forward"]
    for _ in range(3):
        calls["backward"]()
    assert ran == ["forward"] * 2  # one forward pass is kept, and made in the first call
    assert list(calls) == ["forward_backward", "backward"]  # before anything is kept


def test_gradients_alone_are_those_after_a_forward_pass() -> None:
    calls = WORKLOADS["backward"]["hedgehog-torch"](SHAPE, CPU, torch.float32)
    for both, alone in zip(calls["forward_backward"]()[0], calls["backward"]()[0], strict=True):
        assert torch.equal(both, alone)


def test_a_backward_pass_alone_follows_a_forward_pass_on_the_stream_of_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    @contextmanager
    def capture_stream(device: torch.device) -> Iterator[None]:
        log.append("capture stream")
        yield
        log.append("stream of before")

    def attend(inputs: KernelInputs) -> tuple[torch.Tensor, str]:
        log.append("forward")
        return inputs.q * inputs.v, "it/torch"

    monkeypatch.setattr(workloads, "capture_stream", capture_stream)
    calls = backward(attend, SHAPE, CPU, torch.float32)
    calls["backward"]()
    assert log == ["capture stream", "forward", "stream of before"]


def test_a_compiled_map_is_compiled_anew_for_each_shape_and_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[Any] = []

    def compile(function: Any, **options: Any) -> Any:
        log.append(options)
        return function

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(torch.compiler, "reset", lambda: log.append("reset"))
    compiled_map.cache_clear()
    for tokens in (8, 8, 16):
        compiled_map(replace(SHAPE, tokens=tokens))
    compiled_map.cache_clear()
    assert log == ["reset", {"dynamic": False, "fullgraph": True}] * 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler uses what torch has deprecated
def test_a_ninth_shape_is_compiled_like_the_first() -> None:
    counters = importlib.import_module("torch._dynamo.utils").counters
    compiled_map.cache_clear()
    for tokens in range(8, 28, 2):
        shape, graphs = replace(SHAPE, tokens=tokens), counters["stats"]["unique_graphs"]
        inputs = make_inputs(shape, CPU, torch.float32)
        features = compiled_map(shape)(inputs.q, inputs.q_weight)
        assert counters["stats"]["unique_graphs"] == graphs + 1
        torch.testing.assert_close(features, map_features(inputs.q, inputs.q_weight))
    compiled_map.cache_clear()


def test_decoding_has_the_peers_of_the_other_works() -> None:
    assert {"fla", "fla-compiled-map", "softmax-flash", "softmax-cudnn", "softmax-naive"} <= WORKLOADS["decode"].keys()
    for name in ("fla-compiled-map", "softmax-cudnn"):
        with pytest.raises(UnsupportedError, match="run on CUDA; these tensors are on cpu"):
            WORKLOADS["decode"][name](SHAPE, CPU, torch.float32)["decode"]()

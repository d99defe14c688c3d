"""Contenders of the kernel benchmarks compute what they say, from the same tensors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from hedgebench.adapters.base import UnsupportedError
from hedgebench.kernels.linear_naive import linear_attention_naive
from hedgebench.kernels.softmax_attention import softmax_attention_naive
from hedgebench.tasks.kernel_calls import CONTENDERS, KernelInputs, make_inputs, map_features
from hedgebench.tasks.kernel_shapes import KernelShape
from hedgebench.tasks.kernel_works import WORKS

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
        return softmax_attention_naive(q, k, v, causal=True)
    phi_q, phi_k = (map_features(x, w).transpose(1, 2) for x, w in zip((q, k), weights, strict=True))
    return linear_attention_naive(phi_q, phi_k, v, causal=True)


@pytest.mark.parametrize("name", [name for name in CONTENDERS if name not in ON_CUDA])
def test_a_contender_computes_its_attention(name: str) -> None:
    inputs = make_inputs(SHAPE, CPU, torch.float32)
    output, ran = CONTENDERS[name](inputs)
    torch.testing.assert_close(output.double(), expected(inputs, name), rtol=1e-4, atol=1e-5)
    assert ran.partition("/")[0] == ("softmax" if name.startswith("softmax") else "chunk")


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
    for name, prepare in WORKS[work].items():
        if name not in ON_CUDA:
            prepared = prepare(SHAPE, CPU, torch.float32)
            assert set(prepared.calls) == calls
            for call in prepared.calls.values():
                call()


def test_the_quadratic_loss_has_the_gradients_of_the_tiled_one() -> None:
    gradients = [WORKS["distillation"][name](SHAPE, CPU, torch.float32).calls["distillation"]()
                 for name in ("hedgehog-torch", "quadratic")]  # fmt: skip
    assert isinstance(gradients[0], tuple)
    assert isinstance(gradients[1], tuple)
    for tiled, quadratic in zip(*gradients, strict=True):
        torch.testing.assert_close(tiled, quadratic, rtol=1e-3, atol=1e-6)

"""Tests of adapters/attention_fla.py, with that package's own plain references in place of its kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hedgebench.adapters.attention import fla as attention_fla
from hedgebench.adapters.attention.alone import AttentionAlone, build_alone
from hedgebench.adapters.base import UnsupportedError
from hedgebench.adapters.mechanisms.declaration import AttentionShape
from hedgebench.adapters.precision import Precision
from hedgebench.adapters.spec import parse_spec
from hedgebench.harness import registry
from hedgebench.results.record import KernelUse

from ...peer import peer_module

SHAPE = AttentionShape(heads=4, kv_heads=2, head_dim=8, context_length=64)


def alone(model: str) -> AttentionAlone:
    return build_alone(parse_spec(model, registry.mechanisms().get), SHAPE, Precision.of("cpu", "float32"))


@pytest.fixture
def _references(monkeypatch: pytest.MonkeyPatch) -> None:
    naive: Any = peer_module("ops.linear_attn.naive")
    monkeypatch.setattr(attention_fla, "fla_operator", lambda room, name, device: naive.naive_recurrent_linear_attn)


@pytest.mark.usefixtures("_references")
@pytest.mark.parametrize("model", ["elu", "hedgehog:map=softmax_joint", "hedgehog"])
def test_the_peer_computes_what_our_own_kernels_do(model: str) -> None:
    ours, peer = alone(model), alone(f"{model}:kernels=fla")
    inputs = ours.inputs(2, 13)
    with torch.no_grad():
        torch.testing.assert_close(peer.core(inputs.heads, causal=True), ours.core(inputs.heads, causal=True))
        states = [layer.prefill(inputs, 12) for layer in (ours, peer)]
        outs = [layer.core.extend(inputs.part(12, 13), s)[0] for layer, s in zip((ours, peer), states, strict=True)]
        torch.testing.assert_close(outs[1], outs[0])
        weights = [layer.core.weights(inputs.heads, causal=True) for layer in (ours, peer)]
        torch.testing.assert_close(weights[1], weights[0])
    assert peer.kernels_used() == (
        KernelUse("layer_forward", "chunk", "fla"),
        KernelUse("layer_prefill", "chunk", "fla"),
        KernelUse("layer_decode", "fused_recurrent", "fla"),
    )
    assert peer.cost("prefill", 2, 12) is None


def test_there_is_no_peer_without_its_device() -> None:
    layer = alone("elu:kernels=fla")
    with pytest.raises(UnsupportedError, match="run only on cuda, not on cpu"):
        layer.prefill(layer.inputs(1, 4), 4)


@pytest.mark.usefixtures("_references")
def test_what_the_peer_has_no_kernel_for_is_refused() -> None:
    layer = alone("elu:kernels=fla")
    heads = layer.inputs(1, 4).heads
    with pytest.raises(UnsupportedError, match="has only causal linear attention"):
        layer.core(heads, causal=False)
    with pytest.raises(ValueError, match="leave out window=4"):
        alone("hedgehog:window=4:kernels=fla")


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["elu", "hedgehog:map=softmax_joint"])
def test_the_peers_kernels_compute_what_ours_do(model: str) -> None:
    precision = Precision.of("cuda", "bfloat16")
    shape = AttentionShape(heads=4, kv_heads=4, head_dim=64, context_length=512)
    ours, peer = (
        build_alone(parse_spec(spec, registry.mechanisms().get), shape, precision)
        for spec in (model, f"{model}:kernels=fla")
    )
    inputs = ours.inputs(2, 512)
    with torch.no_grad(), precision.autocast():
        outs = [layer.core(inputs.heads, causal=True) for layer in (ours, peer)]
    torch.testing.assert_close(outs[1].float(), outs[0].float(), rtol=3e-2, atol=3e-2)

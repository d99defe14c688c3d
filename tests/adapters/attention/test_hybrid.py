"""The attention layer of LoLCATs: its weights, its gate, its state, and a model with it inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hedgebench.adapters.attention.core import AttentionCore, Heads, build_attention, kernels_of, state_bytes
from hedgebench.adapters.attention.hybrid import INITIAL_GATE, HybridAttention
from hedgebench.adapters.attention.linear import LinearAttention
from hedgebench.adapters.attention.softmax import SoftmaxAttention
from hedgebench.adapters.base import ModelShape, UnsupportedError
from hedgebench.adapters.mechanisms.declaration import AttentionShape
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.scratch.transformer import Transformer
from hedgebench.adapters.spec import parse_spec
from hedgebench.harness.registry import mechanisms
from hedgebench.kernels.choice import KernelChoice
from hedgebench.kernels.maps.fixed import IdentityLinearMap
from hedgebench.results.record import KernelUse

Build = Callable[..., ModelAdapter[Transformer]]

LENGTH = 23
MAPS = pytest.mark.parametrize("map", ["exp", "exp_max", "softmax", "softmax_joint"])


def core_of(spec: str, *, heads: int = 4, kv_heads: int = 2) -> AttentionCore:
    model = parse_spec(spec, mechanisms().get)
    return build_attention(model.mechanism, model.options, AttentionShape(heads, kv_heads, 8, LENGTH))


def hybrid(options: str = "window=5", *, heads: int = 4, kv_heads: int = 2) -> HybridAttention:
    """A hybrid whose maps are no longer the identity, and whose heads have gates of their own."""
    core = core_of(f"hedgehog:{options}", heads=heads, kv_heads=kv_heads)
    assert isinstance(core, HybridAttention)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return core


def heads_of(tokens: int = LENGTH, *, padded: int = 0, kv_heads: int = 2) -> Heads:
    """Heads of two sequences, the first with padding on its left."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, h, tokens, 8, generator=generator) for h in (4, kv_heads, kv_heads))
    mask = torch.arange(tokens) >= torch.tensor([[padded], [0]])
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    return Heads(q, k, v, positions, mask if padded else None)


def part_of(heads: Heads, part: slice) -> Heads:
    mask = None if heads.key_padding_mask is None else heads.key_padding_mask[:, part]
    q, k, v = (x[:, :, part] for x in (heads.q, heads.k, heads.v))
    return Heads(q, k, v, heads.positions[:, part], mask, heads.scale)


def oracle_weights(core: HybridAttention, heads: Heads, *, bounded: bool) -> Tensor:
    """Softmax near and the map's features far, over their common sum, in float64."""
    core = core.double()
    q, k = heads.q.double(), heads.k.double()
    distance = torch.arange(q.shape[2])[:, None] - torch.arange(k.shape[2])
    near, far = (distance >= 0) & (distance < core.window), distance >= core.window
    z = q @ k.repeat_interleave(2, 1).mT * (heads.scale or 8**-0.5)
    z = z.masked_fill(~near, -torch.inf)
    c = z.amax(-1, keepdim=True) if bounded else 0.0
    features = core.query_map.features(q) @ core.key_map.features(k).repeat_interleave(2, 1).mT
    weights = core.gate_logit.sigmoid()[:, None, None] * (z - c).exp() + features * far
    return weights / weights.sum(-1, keepdim=True)


@MAPS
@pytest.mark.parametrize("scale", [None, 0.1])
def test_the_layer_is_the_definition_with_its_own_maps_and_gates(map: str, scale: float | None) -> None:
    core, heads = hybrid(f"window=5:map={map}"), replace(heads_of(), scale=scale)
    out, weights = core(heads, causal=True), core.weights(heads, causal=True)
    expected = oracle_weights(core, heads, bounded=map != "exp")
    torch.testing.assert_close(weights.double(), expected, rtol=1e-4, atol=1e-6)
    values = heads.v.double().repeat_interleave(2, 1)
    torch.testing.assert_close(out.double(), expected @ values, rtol=1e-4, atol=1e-5)


def test_the_window_option_chooses_the_hybrid_and_its_absence_linear_attention() -> None:
    core = core_of("hedgehog:window=16")
    assert isinstance(core, HybridAttention)
    assert core.window == 16
    assert isinstance(core_of("hedgehog"), LinearAttention)


def test_every_query_head_starts_with_a_tenth_for_its_gate() -> None:
    core = core_of("hedgehog:window=16")
    assert isinstance(core, HybridAttention)
    torch.testing.assert_close(core.gate_logit, torch.full((4,), -2.1972246))
    torch.testing.assert_close(core.gate_logit.sigmoid(), torch.full((4,), INITIAL_GATE))


def test_the_gate_and_both_maps_learn() -> None:
    core = hybrid()
    torch.autograd.backward(core(heads_of(), causal=True).square().sum())
    for name, parameter in core.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad.flatten(1) if parameter.ndim > 1 else parameter.grad[:, None]).any(1).all(), name


def test_an_open_gate_draws_the_output_to_the_window() -> None:
    core, heads = hybrid(), heads_of()
    window = SoftmaxAttention(window=5)(heads, causal=True)
    distances = []
    for logit in (-5.0, 0.0, 30.0):
        torch.nn.init.constant_(core.gate_logit, logit)
        with torch.no_grad():
            distances.append(float((core(heads, causal=True) - window)[:, :, 5:].abs().mean()))
    assert distances[0] > distances[1] > distances[2]


@MAPS
@pytest.mark.parametrize("padded", [0, 7])
def test_without_its_linear_branch_it_is_the_window_alone(map: str, padded: int) -> None:
    core, heads = hybrid(f"window=5:map={map}"), heads_of(padded=padded)
    both = core(heads, causal=True)
    core.linear_branch = False
    window = SoftmaxAttention("naive", window=5)
    torch.testing.assert_close(core(heads, causal=True), window(heads, causal=True))
    torch.testing.assert_close(core.weights(heads, causal=True), window.weights(heads, causal=True))
    assert (both - core(heads, causal=True)).abs().max() > 0.01
    state, outs = None, []
    for t in range(LENGTH):
        out, state = core.extend(part_of(heads, slice(t, t + 1)), state)
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, 2), window(heads, causal=True))


@MAPS
@pytest.mark.parametrize("padded", [0, 7])
@pytest.mark.parametrize("pieces", [[1] * LENGTH, [9] + [1] * 14, [3, 1, 12, 7]], ids=["ones", "prompt", "pieces"])
def test_extending_piece_by_piece_equals_the_whole(map: str, padded: int, pieces: list[int]) -> None:
    core, heads = hybrid(f"window=5:map={map}"), heads_of(padded=padded)
    whole = core(heads, causal=True)
    state, outs, start = None, [], 0
    for size in pieces:
        out, state = core.extend(part_of(heads, slice(start, start + size)), state)
        outs.append(out)
        start += size
    torch.testing.assert_close(torch.cat(outs, dim=2), whole, rtol=1e-5, atol=1e-5)


def test_the_state_is_as_large_after_4096_tokens_as_after_64() -> None:
    core = hybrid("window=16")
    sizes = set()
    for tokens in (64, 4096):
        with torch.no_grad():
            _, state = core.extend(heads_of(tokens), None)
        sizes.add(state_bytes(state))
    window = 2 * 16 * (2 * (8 + 8) * 4 + 8)  # keys and values of two heads, and a position
    assert sizes == {window + 2 * 2 * 16 * (8 + 1 + 1) * 4}


def test_what_ran_is_told_by_phase() -> None:
    core = hybrid()
    core(heads_of(), causal=True)
    with torch.no_grad():
        core(heads_of(), causal=True)
        _, state = core.extend(heads_of(), None)
        core.extend(heads_of(1), state)
    phases = ("train", "forward", "prefill", "decode")
    assert kernels_of(core) == [(phase, KernelChoice("hybrid", "torch")) for phase in phases]


def test_a_call_that_is_not_causal_is_refused() -> None:
    for call in (hybrid().forward, hybrid().weights):
        with pytest.raises(ValueError, match="window=5 needs causal attention"):
            call(heads_of(), causal=False)


def test_a_map_without_a_positive_normaliser_is_refused() -> None:
    maps = [IdentityLinearMap(2, 8) for _ in range(2)]
    with pytest.raises(ValueError, match="normaliser"):
        HybridAttention(maps[0], maps[1], False, 4)


def test_a_model_with_it_inside_learns(build: Build, tokens: Tensor) -> None:
    model = build("hedgehog:window=3").model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[2] < losses[1] < losses[0]
    gates = [part.gate_logit for part in model.modules() if isinstance(part, HybridAttention)]
    assert len(gates) == 2
    assert all((gate != gates[0].new_tensor(-2.1972246)).all() for gate in gates)


@pytest.mark.parametrize("size", [{}, {"rope": True}, {"rope": True, "short_conv": 3}], ids=["plain", "rope", "conv"])
@MAPS
def test_a_model_with_it_inside_decodes_as_it_reads(
    build: Build, tokens: Tensor, map: str, size: dict[str, int]
) -> None:
    adapter = build(f"hedgehog:window=3:map={map}", **size)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[0, :2] = False
    expected = adapter.logits(tokens, mask)
    logits, state = adapter.prefill(tokens[:, :4], mask[:, :4])
    torch.testing.assert_close(logits, expected[:, 3], rtol=1e-5, atol=1e-5)
    for t in range(4, 9):
        logits, state = adapter.decode(tokens[:, t], state)
        torch.testing.assert_close(logits, expected[:, t], rtol=1e-5, atol=1e-5)
    assert set(adapter.kernels_used()) == {KernelUse(p, "hybrid", "torch") for p in ("forward", "prefill", "decode")}


def test_the_decode_state_of_a_model_is_bounded(build: Build) -> None:
    adapter = build("hedgehog:window=4", shape=ModelShape(context_length=300, vocab_size=11))
    assert adapter.state_bytes(3, 8) == adapter.state_bytes(3, 300) > adapter.state_bytes(3, 2)


@pytest.mark.parametrize("backbone", ["encoder", "vit"])
def test_an_encoder_with_it_is_refused_before_it_is_built(build: Build, backbone: str) -> None:
    with pytest.raises(
        UnsupportedError, match="model hedgehog:window=16 exists only in decoders; this model is an encoder"
    ):
        build("hedgehog:window=16", backbone)
    build("hedgehog", backbone)

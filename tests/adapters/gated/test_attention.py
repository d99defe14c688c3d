"""Gated attention against whole layers of transformers, and its parts against their formulas."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hedgebench.adapters.attention import fla as attention_fla
from hedgebench.adapters.attention.alone import build_alone
from hedgebench.adapters.attention.core import AttentionCore, Heads, build_attention
from hedgebench.adapters.attention.recurrent_state import RecurrentState
from hedgebench.adapters.base import UnsupportedError
from hedgebench.adapters.gated.attention import GatedAttention
from hedgebench.adapters.gated.gates import ChannelDecay, GatedNorm, StepDecay
from hedgebench.adapters.mechanisms.declaration import AttentionShape
from hedgebench.adapters.precision import Precision
from hedgebench.adapters.pretrained.interface import layers_in_torch
from hedgebench.adapters.spec import parse_spec
from hedgebench.harness.registry import mechanisms
from hedgebench.kernels.choice import KernelChoice

from ...peer import operator_parameters, peer_module
from ..swapped import inputs_of, swapped

HEADS, DIM, WIDTH, LENGTH = 2, 8, 16, 11
SHAPE = AttentionShape(HEADS, HEADS, DIM, LENGTH, width=WIDTH)
NAMES = ("retention", "gla", "mamba2", "deltanet", "gated_deltanet", "kda")
EACH = pytest.mark.parametrize("name", NAMES)


def core_of(spec: str, shape: AttentionShape = SHAPE) -> GatedAttention:
    model = parse_spec(spec, mechanisms().get)
    torch.manual_seed(0)
    core = build_attention(model.mechanism, model.options, shape)
    assert isinstance(core, GatedAttention)
    return core


def heads_of(x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Heads:
    """[b n h d] as heads."""
    q, k, v = (
        torch.unflatten(y, -1, (-1, DIM)).transpose(1, 2) if y.ndim == 3 else y.transpose(1, 2) for y in (q, k, v)
    )
    return Heads(q, k, v, torch.arange(x.shape[1]).expand(len(x), -1), inputs=x)


def random_heads(kv_heads: int = HEADS) -> Heads:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(2, LENGTH, WIDTH, generator=draw)
    q, k, v = (torch.randn(2, LENGTH, h * DIM, generator=draw) for h in (HEADS, kv_heads, kv_heads))
    return heads_of(x, q, k, v)


def set_random(module: nn.Module) -> None:
    for seed, parameter in enumerate(module.parameters()):
        nn.init.normal_(parameter, std=0.4, generator=torch.Generator().manual_seed(seed))


def peer_layer(room: str, name: str, config: str, **sizes: Any) -> Any:
    """A layer of transformers with random weights whose output projection is the identity, and an input."""
    models = f"transformers.models.{room}"
    configured = getattr(importlib.import_module(f"{models}.configuration_{room}"), config)(**sizes)
    with layers_in_torch():
        layer = getattr(importlib.import_module(f"{models}.modeling_{room}"), name)(configured, 0)
    set_random(layer)
    return layer


def set_parts(core: GatedAttention, convolution: nn.Conv1d, norm: Any, gate: Tensor) -> None:
    """Copies what all published layers have: the convolution, and the norm with its gate."""
    assert core.streams.convolution is not None
    assert core.norm is not None
    core.streams.convolution.weight.copy_(convolution.weight)
    core.norm.weight.copy_(norm.weight[:DIM])
    core.norm.gate = nn.Linear(WIDTH, gate.shape[0], bias=False)
    core.norm.gate.weight.copy_(gate)


def set_steps(decay: nn.Module | None, layer: Any, *weights: Tensor) -> None:
    assert isinstance(decay, StepDecay)
    for part, weight in zip(decay.project, weights, strict=True):
        assert isinstance(part, nn.Linear)
        part.weight.copy_(weight)
    decay.log_rate.copy_(layer.A_log.flatten())
    decay.bias.copy_(layer.dt_bias)


@torch.no_grad()
def test_a_layer_of_gated_deltanet_equals_that_of_transformers() -> None:
    layer = peer_layer(
        "qwen3_next", "Qwen3NextGatedDeltaNet", "Qwen3NextConfig", hidden_size=WIDTH, linear_num_value_heads=HEADS,
        linear_num_key_heads=HEADS, linear_key_head_dim=DIM, linear_value_head_dim=DIM, num_hidden_layers=1,
        layer_types=["linear_attention"], rms_norm_eps=1e-5,
    )  # fmt: skip
    core, x = core_of("gated_deltanet"), random_heads().inputs
    assert x is not None
    assert core.strength is not None
    nn.init.eye_(layer.out_proj.weight)
    weights = layer.in_proj_qkvz.weight.unflatten(0, (HEADS, 4, DIM))
    set_parts(core, layer.conv1d, layer.norm, weights[:, 3].flatten(0, 1))
    strength, step = layer.in_proj_ba.weight.unflatten(0, (HEADS, 2)).unbind(1)
    core.strength.project.weight.copy_(strength)
    set_steps(core.decay, layer, step)
    heads = heads_of(x, *(F.linear(x, weights[:, part].flatten(0, 1)) for part in range(3)))
    torch.testing.assert_close(core(heads, causal=True).transpose(1, 2).flatten(2), layer(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_layer_of_kimi_delta_attention_equals_that_of_transformers() -> None:
    layer = peer_layer(
        "kimi_linear", "KimiLinearDeltaAttention", "KimiLinearConfig", hidden_size=WIDTH, linear_num_heads=HEADS,
        linear_head_dim=DIM, num_hidden_layers=1, layer_types=["linear_attention"], rms_norm_eps=1e-5,
    )  # fmt: skip
    core, x = core_of("kda"), random_heads().inputs
    assert x is not None
    assert core.strength is not None
    nn.init.eye_(layer.o_proj.weight)
    set_parts(core, layer.conv1d, layer.o_norm, layer.g_b_proj.weight @ layer.g_a_proj.weight)
    core.strength.project.weight.copy_(layer.b_proj.weight)
    forget = layer.forget_gate
    low, high = (part.weight for part in forget.modules() if isinstance(part, nn.Linear))
    set_steps(core.decay, forget, low, high)
    heads = heads_of(x, layer.q_proj(x), layer.k_proj(x), layer.v_proj(x))
    torch.testing.assert_close(core(heads, causal=True).transpose(1, 2).flatten(2), layer(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_layer_of_mamba2_with_a_group_for_each_head_equals_that_of_transformers() -> None:
    layer = peer_layer(
        "mamba2", "Mamba2Mixer", "Mamba2Config", hidden_size=WIDTH, num_heads=HEADS, head_dim=DIM, expand=1,
        state_size=DIM, n_groups=HEADS, num_hidden_layers=1, chunk_size=4,
    )  # fmt: skip
    core, x = core_of("mamba2"), random_heads().inputs
    assert x is not None
    assert core.norm is not None
    assert core.norm.pass_by is not None
    nn.init.eye_(layer.out_proj.weight)
    nn.init.zeros_(layer.conv1d.bias)
    layer.norm.weight.copy_(layer.norm.weight[:DIM].repeat(HEADS))  # ours is shared by the heads
    gate, values, keys, queries, steps = layer.in_proj.weight.split([WIDTH, WIDTH, WIDTH, WIDTH, HEADS])
    set_parts(core, layer.conv1d, layer.norm, gate)
    assert core.streams.convolution is not None
    core.streams.convolution.weight.copy_(layer.conv1d.weight.unflatten(0, (3, WIDTH)).flip(0).flatten(0, 1))  # C, B, x
    set_steps(core.decay, layer, steps)
    core.norm.pass_by.copy_(layer.D)
    heads = heads_of(x, *(F.linear(x, weight) for weight in (queries, keys, values)))
    torch.testing.assert_close(core(heads, causal=True).transpose(1, 2).flatten(2), layer(x), rtol=1e-4, atol=1e-5)


@EACH
@torch.no_grad()
def test_before_the_norm_outputs_are_the_values_under_the_weights(name: str) -> None:
    core, heads = core_of(name, replace(SHAPE, kv_heads=1)), random_heads(kv_heads=1)
    set_random(core.streams)
    core.norm = None
    mask = torch.ones(2, LENGTH, dtype=torch.bool)
    mask[0, :3] = False
    padded = replace(heads, key_padding_mask=mask)
    values = core.rule(padded, None)[0].v.expand(-1, HEADS, -1, -1)
    weights = core.weights(padded, causal=True)
    torch.testing.assert_close(core(padded, causal=True), weights @ values, rtol=1e-4, atol=1e-5)
    assert not weights[0, :, :, :3].any()
    assert not weights.triu(1).any()


@EACH
@torch.no_grad()
def test_the_state_has_a_matrix_for_each_key_head_and_does_not_grow(name: str) -> None:
    core, heads = core_of(name), random_heads()
    _, state = core.extend(heads, None)
    assert isinstance(state, RecurrentState)
    assert (state.tail is None) == (name in ("retention", "gla"))
    convolved = 0 if state.tail is None else 3 * (3 * HEADS * DIM)
    assert state.bytes == 2 * 4 * (HEADS * DIM * DIM + convolved)
    assert core.extend(heads, state)[1].bytes == state.bytes  # type: ignore[union-attr]
    forms = [("prefill", KernelChoice("chunk", "torch")), ("decode", KernelChoice("chunk", "torch"))]
    assert list(core.kernels_used) == forms


@EACH
def test_every_input_and_parameter_gets_a_gradient(name: str) -> None:
    core, heads = core_of(name), random_heads()
    leaves = [x.clone().requires_grad_() for x in (heads.q, heads.k, heads.v, heads.inputs) if x is not None]
    q, k, v, inputs = leaves
    out = core(replace(heads, q=q, k=k, v=v, inputs=inputs), causal=True)
    torch.autograd.backward(out.square().sum() + out.sum())
    for tensor in (*leaves, *core.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.any()


def test_retention_decays_each_head_by_its_own_constant() -> None:
    decay = core_of("retention").decay
    assert decay is not None
    expected = torch.tensor([1 - 2.0**-5, 1 - 2.0**-6]).log()
    torch.testing.assert_close(decay(random_heads())[0, :, 3, 0], expected)


def test_the_gates_of_gla_are_sixteenth_roots_of_sigmoids() -> None:
    decay, heads = core_of("gla").decay, random_heads()
    assert isinstance(decay, ChannelDecay)
    logits = decay.project(heads.inputs).unflatten(-1, (HEADS, DIM)).transpose(1, 2)
    torch.testing.assert_close(decay(heads).exp(), logits.sigmoid() ** (1 / 16))


def test_ligers_gates_and_features_follow_from_keys_and_queries() -> None:
    bare = replace(SHAPE, width=None)
    core, heads = core_of("gla:gates=keys", bare), replace(random_heads(), inputs=None)
    assert not list(core.parameters())
    state, outputs = torch.zeros(2, HEADS, DIM, DIM), []
    for t in range(LENGTH):
        q, k, v = (x[:, :, t] for x in (heads.q, heads.k, heads.v))
        state = state * (k.sigmoid() ** (1 / 16))[..., None] + k.softmax(-1)[..., None] * v[..., None, :]
        outputs.append((q.softmax(-1)[..., None] * state).sum(-2))
    expected = torch.stack(outputs, 2)
    torch.testing.assert_close(core(heads, causal=True), expected, rtol=1e-4, atol=1e-5)
    near = F.scaled_dot_product_attention(heads.q, heads.k, heads.v, is_causal=True)
    both = core_of(f"gla:gates=keys:window={LENGTH}", bare)
    torch.testing.assert_close(both(heads, causal=True), (expected + near) / 2, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="needs gates=keys"):
        core_of("gla:window=4")


@torch.no_grad()
def test_a_pretrained_model_converts_to_ligers_form_and_to_no_other() -> None:
    for spec in ("gla:gates=keys", "gla:gates=keys:window=4"):
        model = swapped("llama", spec)
        ids, mask = inputs_of("llama")
        assert mask is not None
        full = model(ids, mask)
        last, state = model.extend(ids[:, :7], mask[:, :7], None)
        torch.testing.assert_close(last, full[:, 6], rtol=1e-4, atol=1e-5)
        for t in range(7, ids.shape[1]):
            last, state = model.extend(ids[:, t : t + 1], None, state)
            torch.testing.assert_close(last, full[:, t], rtol=1e-4, atol=1e-5)
    with pytest.raises(UnsupportedError, match="model gla reads the input of its layer"):
        swapped("llama", "gla")
    with pytest.raises(UnsupportedError, match="based reads the input"):
        swapped("gpt2", "based")


def test_steps_start_in_the_published_range() -> None:
    decay = StepDecay(replace(SHAPE, heads=64, kv_heads=64), WIDTH)
    first, rates = F.softplus(decay.bias).tolist(), decay.log_rate.exp().tolist()
    assert 0.0009 < min(first) < 0.003 < 0.03 < max(first) < 0.11
    assert 1 <= min(rates) < 3 < 14 < max(rates) < 16.1


def test_the_norm_comes_before_the_gate_and_after_it_in_a_state_space() -> None:
    heads = random_heads()
    out = heads.v
    plain = GatedNorm(SHAPE)
    normed = out / (out.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(plain(out, heads.v, heads), normed)
    gate = nn.Linear(WIDTH, WIDTH, bias=False)
    gates = torch.unflatten(F.silu(gate(heads.inputs)), -1, (HEADS, DIM)).transpose(1, 2)
    torch.testing.assert_close(GatedNorm(SHAPE, gate)(out, heads.v, heads), normed * gates)
    mixed = (out + heads.v) * gates
    expected = mixed / (mixed.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(GatedNorm(SHAPE, gate, state_space=True)(out, heads.v, heads), expected)


def test_negative_eigenvalues_double_the_strength() -> None:
    one, two = core_of("deltanet"), core_of("deltanet:negative=true")
    heads = random_heads()
    assert one.strength is not None
    assert two.strength is not None
    torch.testing.assert_close(2 * one.strength(heads), two.strength(heads))


def test_what_cannot_run_says_why() -> None:
    with pytest.raises(UnsupportedError, match="model kda reads the input of its layer, which only backbones"):
        core_of("kda", replace(SHAPE, width=None))
    core, heads = core_of("gla"), random_heads()
    with pytest.raises(ValueError, match="needs causal attention"):
        core(heads, causal=False)
    with pytest.raises(UnsupportedError, match="has only q, k and v"):
        core(replace(heads, inputs=None), causal=True)
    with pytest.raises(UnsupportedError, match="run only on cuda, not on cpu"):
        core_of("kda:kernels=fla")(heads, causal=True)
    with pytest.raises(UnsupportedError, match="pool stands in the place of whole attention layers"):
        core_of("pool")


@pytest.mark.parametrize("name", [*NAMES, "gla:gates=keys"])
@torch.no_grad()
def test_the_peers_kernels_get_what_their_references_need(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer's plain references stand in for its kernels."""
    rooms = {
        "simple_gla": "naive_recurrent_simple_gla",
        "gla": "naive_recurrent_gla",
        "gated_delta_rule": "naive_recurrent_gated_delta_rule",
        "kda": "naive_recurrent_kda",
    }
    asked = []

    def operator(room: str, called: str, device: torch.device) -> Any:
        asked.append(called)
        known = operator_parameters(room, called)
        reference = getattr(peer_module(f"ops.{room}.naive"), rooms[room])

        def run(q: Tensor, *others: Tensor, scale: float, **options: Any) -> Any:
            assert known.issuperset(options)  # others vanish in the operator's **kwargs
            if room != "gla":
                return reference(q, *others, scale=scale, **options)
            named = {"gk" if key == "g" else key: value for key, value in options.items()}
            return reference(q * scale * q.shape[-1] ** 0.5, *others, **named)

        return run

    monkeypatch.setattr(attention_fla, "fla_operator", operator)
    shape = replace(SHAPE, kv_heads=1)
    ours, theirs = core_of(name, shape), core_of(f"{name}:kernels=fla", shape)
    heads = random_heads(kv_heads=1)
    mask = torch.ones(2, LENGTH, dtype=torch.bool)
    mask[0, :3] = False
    padded, one = (
        replace(heads, key_padding_mask=mask),
        build_alone(parse_spec(name, mechanisms().get), shape, Precision.of("cpu", "float32")).inputs(2, 1).heads,
    )
    (out, state), (expected, own) = theirs.extend(padded, None), ours.extend(padded, None)
    torch.testing.assert_close(out[:, :, 3:], expected[:, :, 3:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(theirs.extend(one, state)[0], ours.extend(one, own)[0], rtol=1e-4, atol=1e-5)
    assert [called.partition("_")[0] for called in asked] == ["chunk", "fused"]
    assert list(theirs.kernels_used) == [
        ("prefill", KernelChoice("chunk", "fla")), ("decode", KernelChoice("fused_recurrent", "fla"))
    ]  # fmt: skip


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_the_peers_kernels_compute_what_our_chunks_do(name: str) -> None:
    precision = Precision.of("cuda", "bfloat16")
    shape = AttentionShape(heads=4, kv_heads=4, head_dim=64, context_length=200, width=256)
    ours, theirs = (build_alone(parse_spec(f"{name}{kernels}", mechanisms().get), shape, precision)
                    for kernels in ("", ":kernels=fla"))  # fmt: skip
    core: AttentionCore = theirs.core
    core.load_state_dict(ours.core.state_dict())
    inputs = ours.inputs(2, 200)
    with torch.no_grad(), precision.autocast():
        outs = [layer.core(inputs.heads, causal=True).float() for layer in (ours, theirs)]
    torch.testing.assert_close(outs[1], outs[0], rtol=5e-2, atol=5e-2 * math.sqrt(float(outs[0].square().mean())))

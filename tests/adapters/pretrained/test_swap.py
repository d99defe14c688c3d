"""Swapping attention in pretrained models: softmax changes nothing, undoing gives everything back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from hedgebench.adapters.attention.linear import LinearAttention
from hedgebench.adapters.base import UnsupportedError
from hedgebench.adapters.pretrained.sites import example_inputs
from hedgebench.adapters.pretrained.swap import CORE, attention_layers, swap_attention
from hedgebench.adapters.pretrained.weight_files import release
from hedgebench.kernels.maps.learned import HedgehogMap

from ..any_models import any_model
from ..swapped import inputs_of, model_of, spec, swapped
from ..tiny_models import DECODERS, MODEL_TYPES, tiny_config


@torch.no_grad()
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_swapping_softmax_in_leaves_logits_unchanged(model_type: str) -> None:
    model = model_of(model_type)
    inputs, mask = inputs_of(model_type)
    if mask is None:
        before = model(pixel_values=inputs).logits
    else:
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)
        before = model(input_ids=inputs, attention_mask=mask.long(), position_ids=positions).logits
    after = swapped(model_type, "softmax")(inputs, mask)
    if model_type in DECODERS and mask is not None:
        before, after = before[mask], after[mask]
    assert (after - before).abs().max() <= 1e-5 * before.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("text", ["hedgehog", "softmax", "taylor", "none"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_undoing_gives_the_original_back_bit_for_bit(model_type: str, text: str) -> None:
    model = model_of(model_type)
    inputs, _ = inputs_of(model_type)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    implementation, hooks = model.config._attn_implementation, sum(len(m._forward_pre_hooks) for m in model.modules())
    before = model(inputs).logits
    swap = swap_attention(model, spec(text), context_length=64)
    if text == "hedgehog":
        assert not torch.equal(model(inputs).logits, before)
    swap.undo()
    assert torch.equal(model(inputs).logits, before)
    assert model.config._attn_implementation == implementation
    assert sum(len(m._forward_pre_hooks) for m in model.modules()) == hooks
    left = model.state_dict()
    assert left.keys() == weights.keys()
    assert all(torch.equal(left[name], value) for name, value in weights.items())


@torch.no_grad()
@pytest.mark.parametrize("text", ["taylor", "performer:feature_dim=4096"])
def test_maps_that_estimate_softmax_estimate_that_of_the_model(text: str) -> None:
    """Granite multiplies q·k by a number of its own: here one so small that few terms of exp's series are enough."""
    inner = any_model("granite", attention_multiplier=0.02)
    layers: list[Any] = attention_layers(inner)
    for layer in layers:
        layer.q_proj.weight.mul_(6)
    ids, mask = example_inputs(inner, 2, 12, padding=3)
    arguments = {"input_ids": ids, "attention_mask": mask}
    expected = inner(**arguments).logits[mask]
    swap_attention(inner, spec(text), context_length=64)
    error = (inner(**arguments).logits[mask] - expected).abs().max() / expected.abs().max()
    assert error < 0.02


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_head_has_maps_of_its_own_and_keys_their_own_heads(model_type: str) -> None:
    config = tiny_config(model_type)
    model = swapped(model_type, "hedgehog")
    kv_heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    assert len(model.cores) == config.num_hidden_layers
    for core in model.cores:
        assert isinstance(core, LinearAttention)
        assert isinstance(core.query_map, HedgehogMap)
        assert isinstance(core.key_map, HedgehogMap)
        assert core.query_map.weight.shape[0] == config.num_attention_heads
        assert core.key_map.weight.shape[0] == kv_heads
    pointers = {w.data_ptr() for core in model.cores for w in core.parameters()}
    assert len(pointers) == 2 * config.num_hidden_layers


def test_grouped_queries_are_among_the_models_tried() -> None:
    assert tiny_config("llama").num_key_value_heads < tiny_config("llama").num_attention_heads


@torch.no_grad()
def test_linear_attention_uses_the_model_s_own_projections() -> None:
    """Against attention worked out by hand from the projections of a GPT-2."""
    model = swapped("gpt2", "elu")
    inner: Any = model.inner
    ids, _ = inputs_of("gpt2")
    seen = {}
    with model.watching(
        lambda layer, core, heads, causal: seen.update({layer: (heads, core.outputs(heads, causal=causal))})
    ):
        model.hidden(ids)
    heads, out = seen[0]
    first = inner.transformer.h[0]
    x = inner.transformer.wte(ids) + inner.transformer.wpe(torch.arange(ids.shape[1]))
    q, k, v = first.attn.c_attn(first.ln_1(x)).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
    torch.testing.assert_close(heads.q, q)
    features_q, features_k = torch.nn.functional.elu(q) + 1, torch.nn.functional.elu(k) + 1
    scores = (features_q @ features_k.mT).tril()
    torch.testing.assert_close(out, scores / scores.sum(-1, keepdim=True) @ v, rtol=1e-4, atol=1e-5)


def test_options_of_gpt2_that_change_the_scale_are_kept() -> None:
    config = tiny_config("gpt2")
    config.scale_attn_by_inverse_layer_idx = True
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()  # type: ignore[no-untyped-call]
    if not all(hasattr(layer, "scaling") for layer in attention_layers(model)):
        pytest.skip("this release of transformers does not hand over the scale; swapping is refused")
    ids, _ = inputs_of("gpt2")
    with torch.no_grad():
        before = model(ids).logits
        swap_attention(model, spec("softmax"), context_length=64)
        torch.testing.assert_close(model(ids).logits, before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("text", ["window", "hedgehog:window=4"])
def test_what_exists_in_decoders_alone_is_refused_for_encoders(text: str) -> None:
    with pytest.raises(UnsupportedError, match="exists only in decoders"):
        swapped("bert", text)


def test_a_swapped_model_is_not_swapped_again() -> None:
    model = swapped("llama", "hedgehog")
    with pytest.raises(ValueError, match="swapped already"):
        swap_attention(model.inner, spec("elu"), context_length=8)


@torch.no_grad()
def test_sequences_past_the_models_own_window_are_refused() -> None:
    config = tiny_config("mistral")
    config.sliding_window = 8
    model = AutoModelForCausalLM.from_config(config).eval()  # type: ignore[no-untyped-call]
    swap_attention(model, spec("softmax"), context_length=64)
    model(torch.ones(1, 8, dtype=torch.long))
    with pytest.raises(UnsupportedError, match="9 tokens exceed the model's own sliding window of 8"):
        model(torch.ones(1, 9, dtype=torch.long))


@torch.no_grad()
def test_packed_sequences_are_refused() -> None:
    model = swapped("llama", "hedgehog").inner
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]])
    with pytest.raises(UnsupportedError, match="packed sequences"):
        model(torch.ones(1, 6, dtype=torch.long), position_ids=positions, use_cache=False)


@pytest.mark.skipif(release() < 5, reason="rotary positions of transformers 4 have no meta device")
def test_the_maps_of_llama_2_7b_are_the_papers_share_of_its_parameters() -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM(
            LlamaConfig(vocab_size=32_000, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32)
        )
    base = sum(p.numel() for p in model.parameters())
    swap = swap_attention(model, spec("hedgehog"), context_length=4096)
    maps = sum(p.numel() for bridge in swap.bridges for p in bridge.core.parameters())
    assert base == 6_738_415_616
    assert maps == 33_554_432
    assert round(100 * maps / (base + maps), 3) == 0.495
    assert all(f".{CORE}." in name for name, p in model.named_parameters() if name.endswith("_map.weight"))

"""Pretrained models with swapped attention: padding, generation step by step, states, segments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from hedgebench.adapters.base import AttentionMaps, UnsupportedError
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.pretrained.interface import cache_argument
from hedgebench.adapters.pretrained.model import PretrainedModel, segment_ids
from hedgebench.adapters.pretrained.state_cache import StateCache
from hedgebench.adapters.training.lora import add_lora
from hedgebench.adapters.training.settings import LoraSettings

from ..swapped import built, inputs_of, swapped
from ..tiny_models import DECODERS, MODEL_TYPES, tiny_tokenizer

MODELS = ["softmax", "hedgehog", "hedgehog:map=softmax", "elu", "cosformer", "taylor", "hedgehog:window=4", "none"]


@torch.no_grad()
@pytest.mark.parametrize("text", MODELS)
@pytest.mark.parametrize("model_type", DECODERS)
def test_decoding_equals_the_whole_sequence_at_every_step(model_type: str, text: str) -> None:
    model = swapped(model_type, text)
    ids, mask = inputs_of(model_type)
    assert mask is not None
    whole = model(ids, mask)
    logits, state = model.extend(ids[:, :7], mask[:, :7], None)
    for step in range(7, 12):
        torch.testing.assert_close(logits, whole[:, step - 1], rtol=1e-4, atol=1e-4)
        if step < 11:
            logits, state = model.extend(ids[:, step : step + 1], None, state)


@torch.no_grad()
@pytest.mark.parametrize("text", ["softmax", "hedgehog", "hedgehog:window=4"])
@pytest.mark.parametrize("model_type", DECODERS)
def test_transformers_own_generation_equals_recomputing_the_sequence(model_type: str, text: str) -> None:
    model = swapped(model_type, text)
    ids, mask = inputs_of(model_type)
    assert mask is not None
    made = model.inner.generate(  # type: ignore[operator]
        input_ids=ids, attention_mask=mask.long(), max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None
    )
    for _ in range(6):
        token = model(ids, mask)[:, -1].argmax(-1)
        ids, mask = torch.cat([ids, token[:, None]], 1), torch.cat([mask, mask.new_ones(3, 1)], 1)
    assert torch.equal(made, ids)


@torch.no_grad()
def test_beams_are_followed_as_without_swapping() -> None:
    ids, _ = inputs_of("llama")
    options = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    model = swapped("llama", "softmax")
    with_ours = model.inner.generate(ids, **options)  # type: ignore[operator]
    model.swap.undo()
    assert torch.equal(with_ours, model.inner.generate(ids, **options))  # type: ignore[operator]


@torch.no_grad()
def test_beams_of_linear_attention_take_their_states_along() -> None:
    ids, _ = inputs_of("llama")
    options = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    inner = swapped("llama", "hedgehog").inner
    assert torch.equal(
        inner.generate(ids, **options),  # type: ignore[operator]
        inner.generate(ids, use_cache=False, **options),  # type: ignore[operator]
    )


@torch.no_grad()
@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("text", ["hedgehog", "t2r"])
def test_a_padded_row_equals_the_row_alone(model_type: str, text: str) -> None:
    inputs, mask = inputs_of(model_type)
    if mask is None:
        pytest.skip("images have no padding")
    model = swapped(model_type, text)
    together = model(inputs, mask)
    for row in range(3):
        alone = model(inputs[row : row + 1, mask[row]], None)[0]
        expected = together[row][mask[row]] if model_type in DECODERS else together[row]
        torch.testing.assert_close(alone, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("text", "grows"), [("hedgehog", False), ("hedgehog:window=4", False), ("softmax", True)])
def test_only_softmax_has_a_state_that_grows(text: str, grows: bool) -> None:
    model = swapped("llama", text)
    sizes = []
    for tokens in (8, 40):
        _, state = model.extend(torch.ones(1, tokens, dtype=torch.long), None, None)
        sizes.append(state.bytes)
    assert (sizes[1] > sizes[0]) == grows


@torch.no_grad()
def test_an_adapter_generates_greedily_what_the_model_says(tmp_path: Path) -> None:
    adapter = built("llama", tmp_path, "hedgehog")
    ids, mask = inputs_of("llama")
    greedy = adapter.generate(ids, mask, max_new_tokens=4)
    assert torch.equal(greedy[:, 0], adapter.model(ids, mask)[:, -1].argmax(-1))
    sampled = [adapter.generate(ids, mask, max_new_tokens=4, temperature=1.0, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(sampled[0], sampled[1])
    assert not torch.equal(sampled[0], sampled[2])


@torch.no_grad()
def test_a_cache_that_another_attention_filled_is_refused() -> None:
    cache = DynamicCache()
    model = swapped("llama", "softmax")
    model.swap.undo()
    given: dict[str, Any] = {cache_argument(type(model.inner).forward): cache}
    model.inner(torch.ones(1, 4, dtype=torch.long), use_cache=True, **given)
    again = swapped("llama", "hedgehog").inner
    with pytest.raises(ValueError, match="filled DynamicCache"):
        again(torch.ones(1, 1, dtype=torch.long), use_cache=True, **given)


def test_sums_cannot_be_cropped() -> None:
    with pytest.raises(NotImplementedError, match="sum over the tokens"):
        StateCache(1).layers[0].crop(2)


@torch.no_grad()
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_attention_weights_are_those_that_give_the_output(model_type: str) -> None:
    model = swapped(model_type, "hedgehog")
    inputs, mask = inputs_of(model_type)
    seen = {}
    with model.watching(
        lambda layer, core, heads, causal: seen.update({layer: (heads, core.outputs(heads, causal=causal))})
    ):
        model.hidden(inputs, mask)
    for layer, weights in enumerate(model.attention_weights(inputs, mask)):
        heads, out = seen[layer]
        groups = heads.q.shape[1] // heads.v.shape[1]
        torch.testing.assert_close(weights @ heads.v.repeat_interleave(groups, 1), out, rtol=1e-4, atol=1e-5)


def test_segments_are_those_of_the_tokenizer() -> None:
    tokenizer = tiny_tokenizer("bert")
    tokenizer.enable_padding(pad_id=0)
    encoded = tokenizer.encode_batch([("a b c", "d"), ("e", "f g h i"), "j k"])
    ids = torch.tensor([row.ids for row in encoded])
    mask = torch.tensor([row.attention_mask for row in encoded]).bool()
    separator = tokenizer.token_to_id("[SEP]")
    assert separator is not None
    assert segment_ids(ids, mask, separator).tolist() == [row.type_ids for row in encoded]


def test_positions_that_were_learned_have_an_end(tmp_path: Path) -> None:
    adapter = built("gpt2", tmp_path)
    with pytest.raises(UnsupportedError, match="65 tokens do not fit"):
        adapter.logits(torch.ones(1, 65, dtype=torch.long))
    assert isinstance(adapter.model, PretrainedModel)
    assert swapped("llama", "softmax").last_position is None


def compared(adapter: ModelAdapter[PretrainedModel], model_type: str) -> list[AttentionMaps]:
    """The maps of each layer over some inputs, padded where they are tokens."""
    layers: list[AttentionMaps] = []
    inputs, mask = inputs_of(model_type)
    adapter.compare_attention(inputs, lambda _, maps: layers.append(maps), mask)
    return layers


def change_base(model: PretrainedModel) -> None:
    """What fine-tuning does: all weights but those of feature maps."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in model.inner.named_parameters():
            if "attention_core" not in name:
                value.add_(0.1 * torch.randn(value.shape, generator=generator))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_teacher_is_the_softmax_model_that_reads_the_inputs_by_itself(model_type: str, tmp_path: Path) -> None:
    alone = [maps.weights for maps in compared(built(model_type, tmp_path), model_type)]
    layers = compared(built(model_type, tmp_path, "elu"), model_type)
    for weights, maps in zip(alone, layers, strict=True):
        assert maps.teacher is not None
        torch.testing.assert_close(maps.teacher, weights)
    assert torch.equal(layers[0].softmax, alone[0])
    assert not torch.allclose(layers[1].softmax, alone[1], atol=1e-5)  # its input went through the first layer's map


def test_the_teacher_is_the_model_before_fine_tuning_which_its_pass_leaves_alone(tmp_path: Path) -> None:
    adapter = built("llama", tmp_path, "elu")
    before = [maps.teacher for maps in compared(adapter, "llama")]
    adapter.model.keep_teacher()
    change_base(adapter.model)
    weights = {name: value.clone() for name, value in adapter.model.state_dict().items()}
    for expected, maps in zip(before, compared(adapter, "llama"), strict=True):
        assert expected is not None
        assert maps.teacher is not None
        assert torch.equal(maps.teacher, expected)
        assert not torch.allclose(maps.softmax, expected, atol=1e-3)
    assert all(torch.equal(weights[name], value) for name, value in adapter.model.state_dict().items())


def test_the_teacher_is_the_model_before_low_rank_updates_were_merged(tmp_path: Path) -> None:
    adapter = built("gpt2", tmp_path, "hedgehog")
    before = [maps.teacher for maps in compared(adapter, "gpt2")]
    adapter.model.keep_teacher()
    lora = add_lora(adapter.model, LoraSettings(rank=2), seed=0)
    with torch.no_grad():
        for name, value in adapter.model.named_parameters():
            if "lora_B" in name:
                value.fill_(0.1)
    lora.merge_and_unload(safe_merge=True)
    for expected, maps in zip(before, compared(adapter, "gpt2"), strict=True):
        assert expected is not None
        assert maps.teacher is not None
        assert torch.equal(maps.teacher, expected)
        assert not torch.allclose(maps.softmax, expected, atol=1e-5)


def test_a_teacher_that_does_not_fit_leaves_the_weights_as_they_are(tmp_path: Path) -> None:
    adapter = built("gpt2", tmp_path, "elu")
    adapter.model.keep_teacher()
    change_base(adapter.model)
    weights = {name: value.clone() for name, value in adapter.model.state_dict().items()}

    def stop(*_: object) -> None:
        raise UnsupportedError("stopped")

    hook = adapter.model.inner.base_model.register_forward_hook(stop)
    with pytest.raises(UnsupportedError, match="stopped"):
        compared(adapter, "gpt2")
    hook.remove()
    assert all(torch.equal(weights[name], value) for name, value in adapter.model.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("text", ["softmax", "hedgehog", "elu", "hedgehog:window=4"])
@pytest.mark.parametrize("model_type", DECODERS)
def test_a_cache_that_the_caller_keeps_is_filled_in_place(model_type: str, text: str) -> None:
    """The loop of a user who makes the cache, token by token."""
    model = swapped(model_type, text).inner
    ids, _ = inputs_of(model_type)
    cache = DynamicCache(config=model.config)
    given: dict[str, Any] = {cache_argument(type(model).forward): cache, "use_cache": True}
    steps = [model(ids[:, t : t + 1], **given).logits[:, 0] for t in range(ids.shape[1])]
    assert cache.get_seq_length() == ids.shape[1]
    torch.testing.assert_close(torch.stack(steps, 1), model(ids, use_cache=False).logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("text", ["softmax", "hedgehog", "hedgehog:window=4", "cosformer"])
@pytest.mark.parametrize("model_type", DECODERS)
def test_a_part_that_is_all_padding_moves_no_position(model_type: str, text: str) -> None:
    model = swapped(model_type, text)
    ids, _ = inputs_of(model_type)
    expected, _ = model.extend(ids, None, None)
    _, state = model.extend(ids[:, :3], torch.zeros(len(ids), 3, dtype=torch.bool), None)
    found, state = model.extend(ids, torch.ones_like(ids, dtype=torch.bool), state)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert state.seen is not None
    assert state.seen.tolist() == [ids.shape[1]] * len(ids)

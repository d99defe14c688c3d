"""Low-rank adapters: what they train, and that merging them changes nothing."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForMaskedLM

from hedgebench.adapters.base import UnsupportedError
from hedgebench.adapters.precision import Precision
from hedgebench.adapters.pretrained.label_words import LabelWordModel
from hedgebench.adapters.pretrained.model import PretrainedModel
from hedgebench.adapters.pretrained.swap import swap_attention
from hedgebench.adapters.training.lora import PROJECTIONS, add_lora
from hedgebench.adapters.training.settings import LoraSettings

from ..swapped import inputs_of, model_of, spec, swapped
from ..tiny_models import CONTEXT_LENGTH, tiny_config

CPU_BFLOAT16 = Precision(torch.device("cpu"), torch.bfloat16)


def trained_names(model: PretrainedModel) -> set[str]:
    return {name for name, value in model.named_parameters() if value.requires_grad}


def shake(model: PretrainedModel) -> None:
    """Low-rank updates start at zero, where nothing could be seen of them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.add_(0.1 * torch.randn(value.shape, generator=generator))


@pytest.mark.parametrize("model_type", PROJECTIONS)
def test_low_rank_weights_and_maps_and_a_head_are_trained(model_type: str) -> None:
    model = swapped(model_type, "hedgehog")
    add_lora(model, LoraSettings(rank=2), seed=0)
    kinds = {"lora" if "lora_" in name else "map" if "_map." in name else "head" for name in trained_names(model)}
    assert kinds == ({"lora", "map", "head"} if model_type == "bert" else {"lora", "map"})
    assert all(".classifier." in n for n in trained_names(model) if "lora_" not in n and "_map." not in n)


def test_adapters_of_a_model_in_bfloat16_are_trained_in_float32_and_merged_into_its_weights() -> None:
    inner = model_of("llama").bfloat16()
    model = PretrainedModel(inner, swap_attention(inner, spec("hedgehog"), context_length=CONTEXT_LENGTH))
    adapters = add_lora(model, LoraSettings(rank=2), seed=0)
    assert {value.dtype for value in model.parameters() if value.requires_grad} == {torch.float32}
    shake(model)
    inputs, mask = inputs_of("llama")
    with torch.no_grad(), CPU_BFLOAT16.autocast():
        before = model.eval()(inputs, mask).float()
        adapters.merge_and_unload(safe_merge=True)
        torch.testing.assert_close(model(inputs, mask).float(), before, rtol=0.1, atol=0.1)
    assert {value.dtype for name, value in model.named_parameters() if "_map." not in name} == {torch.bfloat16}


def test_a_head_for_masked_words_is_trained_without_the_embeddings_that_it_reads() -> None:
    kind: Any = AutoModelForMaskedLM
    inner = kind.from_config(tiny_config("bert"))
    swap = swap_attention(inner, spec("hedgehog"), context_length=CONTEXT_LENGTH)
    model = LabelWordModel(inner, swap, None, "", words=[5, 6], mask_token=4)
    add_lora(model, LoraSettings(rank=2), seed=0)
    heads = {name for name in trained_names(model) if "lora_" not in name and "_map." not in name}
    assert {name.split(".predictions.")[1] for name in heads} == {
        *("transform.dense.weight", "transform.dense.bias"),
        *("transform.LayerNorm.weight", "transform.LayerNorm.bias", "decoder.bias"),
    }


def test_maps_can_be_left_as_distilled() -> None:
    model = swapped("llama", "hedgehog")
    add_lora(model, LoraSettings(train_maps=False), seed=0)
    assert all("lora_" in name for name in trained_names(model))


@torch.no_grad()
@pytest.mark.parametrize("model_type", PROJECTIONS)
def test_merging_leaves_outputs_and_takes_the_adapters_out(model_type: str) -> None:
    inputs, mask = inputs_of(model_type)
    model = swapped(model_type, "hedgehog")
    names, types = set(model.state_dict()), [type(part) for part in model.modules()]
    untouched = model(inputs, mask)
    adapters = add_lora(model, LoraSettings(rank=2), seed=0)
    model.eval()
    torch.testing.assert_close(model(inputs, mask), untouched)
    shake(model)
    before = model(inputs, mask)
    assert not torch.allclose(before, untouched, rtol=1e-3)
    adapters.merge_and_unload(safe_merge=True)
    torch.testing.assert_close(model(inputs, mask), before, rtol=1e-4, atol=1e-5)
    assert set(model.state_dict()) == names
    assert [type(part) for part in model.modules()] == types


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # of peft
def test_as_many_weights_are_trained_as_by_peft() -> None:
    model = swapped("llama", "elu")
    add_lora(model, LoraSettings(rank=4), seed=0)
    config = peft.LoraConfig(r=4, target_modules=list(PROJECTIONS["llama"]))
    theirs = peft.get_peft_model(model_of("llama"), config)
    ours = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert ours == theirs.get_nb_trainable_parameters()[0]


def test_equal_seeds_draw_equal_updates() -> None:
    models = [swapped("llama", "elu") for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        add_lora(model, LoraSettings(), seed=seed)
    first, same, other = (
        next(value for name, value in model.named_parameters() if "lora_A" in name) for model in models
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_model_whose_projections_are_not_known_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="model type 'vit'"):
        add_lora(swapped("vit", "hedgehog"), LoraSettings(), seed=0)

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from hedgebench.adapters.backbone import (
    BACKBONES,
    MODEL_TYPES,
    SCALES,
    Backbone,
    Checkpoint,
    CheckpointError,
    capabilities_of,
    pretrained,
)
from hedgebench.adapters.base import Capability

SCRATCH = {"gpt", "encoder", "vit"}
PRETRAINED = {"gpt2", "bert-base", "llama2-7b", "vit-b16", "smollm2-135m", "minilm-l6"}


def each(names: Iterable[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("backbone", [BACKBONES[name] for name in sorted(names)], ids=lambda each: each.name)


EACH, EACH_FROM_SCRATCH, EACH_PRETRAINED = each(BACKBONES), each(SCRATCH), each(PRETRAINED)


def test_the_names_are_those_of_the_command_line() -> None:
    assert {name for name, backbone in BACKBONES.items() if backbone.checkpoint is None} == SCRATCH
    assert {name for name, backbone in BACKBONES.items() if backbone.checkpoint is not None} == PRETRAINED
    assert SCALES == ("smoke", "small", "paper")


@EACH
def test_every_scale_has_a_size_of_the_same_settings(backbone: Backbone) -> None:
    assert tuple(backbone.sizes) == SCALES
    keys = {frozenset(size) for size in backbone.sizes.values()}
    assert len(keys) == 1
    scratch = {"layers", "heads", "kv_heads", "width", "mlp_width", "rope", "short_conv", "dropout"}
    assert keys.pop() >= (scratch if backbone.checkpoint is None else {"weights", "gradient_checkpointing"})


@EACH_FROM_SCRATCH
def test_sizes_grow_with_scale_and_heads_divide_widths(backbone: Backbone) -> None:
    widths = []
    for size in backbone.sizes.values():
        width, heads = size["width"], size["heads"]
        assert isinstance(width, int)
        assert isinstance(heads, int)
        assert width % heads == 0
        widths.append(width)
    assert widths == sorted(set(widths))


@EACH
def test_a_backbone_is_a_language_model_or_a_classifier(backbone: Backbone) -> None:
    assert len(backbone.capabilities & {Capability.LANGUAGE_MODEL, Capability.CLASSIFIER}) == 1
    assert backbone.summary


@EACH_PRETRAINED
def test_a_checkpoint_is_pinned_and_its_licence_told(backbone: Backbone) -> None:
    checkpoint = backbone.checkpoint
    assert checkpoint is not None
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", checkpoint.repo)
    assert re.fullmatch(r"[0-9a-f]{40}", checkpoint.revision)
    assert checkpoint.licence


def test_only_the_large_model_is_held_in_bfloat16() -> None:
    assert {name for name in PRETRAINED if BACKBONES[name].sizes["paper"]["weights"] == "bfloat16"} == {"llama2-7b"}


def test_what_a_model_can_do_follows_from_its_type() -> None:
    decoders = {name for name, can in MODEL_TYPES.items() if Capability.GENERATE in can}
    assert {"gpt2", "gpt_neox", "llama", "mistral", "qwen2"} <= decoders
    assert {name for name, can in MODEL_TYPES.items() if Capability.CLASSIFIER in can} == {
        *("beit", "bert", "camembert", "deit", "dinov2", "distilbert", "electra", "ernie", "modernbert", "roberta"),
        *("siglip", "vit", "xlm-roberta"),
    }


def test_a_folder_is_declared_by_its_type() -> None:
    backbone = pretrained("hf:/models/mine", "qwen2", Checkpoint("", "", folder="/models/mine"))
    assert backbone.capabilities == MODEL_TYPES["qwen2"]
    assert backbone.summary == "pretrained qwen2 model from /models/mine"


@pytest.mark.parametrize(("model_type", "nearest"), [("bert2", "did you mean bert"), (None, "allowed: beit, bert")])
def test_an_unsupported_type_is_refused_with_the_nearest(model_type: object, nearest: str) -> None:
    with pytest.raises(CheckpointError, match=f"/models/mine: unknown model_type .*{nearest}"):
        capabilities_of({"model_type": model_type}, "/models/mine")


@pytest.mark.parametrize(
    ("architecture", "can"),
    [
        ("MambaForCausalLM", Capability.LANGUAGE_MODEL),
        ("GPTBigCodeLMHeadModel", Capability.LANGUAGE_MODEL),
        ("DebertaV2ForSequenceClassification", Capability.CLASSIFIER),
        ("SwinForImageClassification", Capability.CLASSIFIER),
    ],
)
def test_another_type_can_do_what_the_class_that_wrote_it_does(architecture: str, can: Capability) -> None:
    assert can in capabilities_of({"model_type": "other", "architectures": [architecture]}, "here")


@pytest.mark.parametrize("architectures", [5, "LlamaForCausalLM", [5], {}])
def test_an_entry_of_architectures_that_is_no_list_of_names_says_nothing(architectures: object) -> None:
    with pytest.raises(CheckpointError, match="unknown model_type 'other'"):
        capabilities_of({"model_type": "other", "architectures": architectures}, "here")


def test_a_model_with_an_encoder_and_a_decoder_is_refused() -> None:
    with pytest.raises(CheckpointError, match="has an encoder and a decoder"):
        capabilities_of({"model_type": "t5", "is_encoder_decoder": True, "architectures": ["T5ForCausalLM"]}, "here")

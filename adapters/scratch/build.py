"""Freshly initialised models with any attention mechanism."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch

from ..attention.core import build_attention
from ..backbone import Backbone
from ..base import Capability, ModelShape, Settings, UnsupportedError
from ..mechanisms.declaration import AttentionShape
from ..model_adapter import ModelAdapter
from ..precision import Precision
from ..spec import ModelSpec
from .transformer import Transformer
from .transformer_config import TransformerConfig, patches_and_class_token


def build_scratch(
    spec: ModelSpec, backbone: Backbone, size: Settings, shape: ModelShape, seed: int, precision: Precision
) -> ModelAdapter[Transformer]:
    """A freshly initialised model.

    Args:
        spec: The attention mechanism and its options.
        backbone: `gpt`, `encoder` or `vit`.
        size: The backbone's settings.
        shape: The inputs and outputs that the task needs.
        seed: Seed of the initial weights.
        precision: Device and autocast type.

    Raises:
        UnsupportedError: The backbone cannot do what the shape or the mechanism needs.
        ValueError: Sizes that do not fit each other.
    """
    backbone.check(shape)
    if (shape.image_size is not None) != (backbone.name == "vit"):
        raise UnsupportedError(f"backbone {backbone.name} does not take {'images' if shape.image_size else 'tokens'}")
    sizes: dict[str, Any] = {**asdict(shape), **size}
    del sizes["labels"]
    config = patches_and_class_token(TransformerConfig(**sizes, causal=backbone.name == "gpt"))
    if spec.is_causal_only and not config.causal:
        raise UnsupportedError(
            f"model {spec.canonical} exists only in decoders; backbone {backbone.name} is an encoder"
        )
    torch.manual_seed(seed)
    layer = AttentionShape(config.heads, config.kv_heads, config.head_dim, config.context_length, seed=seed)
    cores = [build_attention(spec.mechanism, spec.options, replace(layer, layer=i)) for i in range(config.layers)]
    model = Transformer(config, cores).to(precision.device)
    # A model that reads vectors has no tokens to score or generate.
    of_tokens = {Capability.LANGUAGE_MODEL, Capability.GENERATE}
    lacking = {Capability.VECTOR_SEQUENCES} if shape.input_dim is None else of_tokens
    return ModelAdapter(model, backbone.capabilities - lacking, shape, precision)

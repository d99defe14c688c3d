"""Freshly initialised models with any attention mechanism."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch

from ..backbone import Backbone
from ..base import Capability, ModelShape, Settings, UnsupportedError
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
    for name in ("labels", "label_words", "mask_token"):
        del sizes[name]
    config = patches_and_class_token(TransformerConfig(**sizes, causal=backbone.name == "gpt"))
    torch.manual_seed(seed)
    model = Transformer(config, spec, seed).to(precision.device)
    if shape.image_size is not None:
        shape = replace(shape, context_length=config.context_length)
    # A model that reads vectors has no tokens to score or generate.
    of_tokens = {Capability.LANGUAGE_MODEL, Capability.GENERATE}
    lacking = {Capability.VECTOR_SEQUENCES} if shape.input_dim is None else of_tokens
    if len(model.cores) < config.layers:  # a layer that was replaced as a whole has no attention weights
        lacking |= {Capability.ATTENTION_WEIGHTS}
    shape = replace(shape, context_length=config.context_length)
    return ModelAdapter(model, backbone.capabilities - lacking, shape, precision)

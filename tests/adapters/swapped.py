"""Tiny random models with their attention swapped, and inputs for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from hedgebench.adapters.backbone import Checkpoint, pretrained
from hedgebench.adapters.base import ModelShape, Settings
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.precision import Precision
from hedgebench.adapters.pretrained.adapter import build_pretrained
from hedgebench.adapters.pretrained.model import PretrainedModel
from hedgebench.adapters.pretrained.swap import swap_attention
from hedgebench.adapters.spec import ModelSpec, parse_spec
from hedgebench.harness.registry import mechanisms

from .tiny_models import CONTEXT_LENGTH, DECODERS, save_tiny, tiny_config

CPU = Precision(torch.device("cpu"), torch.float32)
SETTINGS: Settings = {"weights": "float32", "gradient_checkpointing": False}


def spec(text: str) -> ModelSpec:
    return parse_spec(text, mechanisms().get)


def model_of(model_type: str, seed: int = 0) -> PreTrainedModel:
    """A random model with the head for our tasks."""
    config = tiny_config(model_type)
    torch.manual_seed(seed)
    kind: Any = AutoModelForSequenceClassification
    if model_type in DECODERS:
        kind = AutoModelForCausalLM
    elif model_type == "vit":
        kind = AutoModelForImageClassification
    model: PreTrainedModel = kind.from_config(config).eval()
    return model


def swapped(model_type: str, text: str, seed: int = 0) -> PretrainedModel:
    inner = model_of(model_type, seed)
    return PretrainedModel(inner, swap_attention(inner, spec(text), context_length=CONTEXT_LENGTH))


def inputs_of(model_type: str, tokens: int = 11) -> tuple[Tensor, Tensor | None]:
    """Three rows, two of them padded: decoders' on the left, the others' on the right; images have no padding."""
    generator = torch.Generator().manual_seed(1)
    if model_type == "vit":
        config = tiny_config("vit")
        size = (2, config.num_channels, config.image_size, config.image_size)
        return torch.randn(size, generator=generator), None
    ids = torch.randint(5, 40, (3, tokens), generator=generator)
    mask = torch.ones(3, tokens, dtype=torch.bool)
    for row, padding in ((1, 2), (2, 5)):
        mask[row, slice(0, padding) if model_type in DECODERS else slice(tokens - padding, None)] = False
    return ids, mask


def shape_of(model_type: str) -> ModelShape:
    config = tiny_config(model_type)
    if model_type == "vit":
        return ModelShape(1, num_classes=3, image_size=config.image_size, channels=config.num_channels)
    return ModelShape(16, vocab_size=40, num_classes=None if model_type in DECODERS else 3)


def built(model_type: str, folder: Path, text: str = "softmax", seed: int = 0) -> ModelAdapter[PretrainedModel]:
    """The adapter of a tiny checkpoint in `folder`, which is written there unless it exists."""
    if not (folder / "config.json").exists():
        save_tiny(model_type, folder)
    backbone = pretrained(f"hf:{folder}", model_type, Checkpoint("", "", folder=str(folder)))
    adapter = build_pretrained(
        folder, backbone, SETTINGS, shape_of(model_type), mechanisms().get, seed=seed, precision=CPU
    )
    adapter.swap_in(spec(text), seed)
    return adapter

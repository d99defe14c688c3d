"""Low-rank adapters (LoRA, arXiv:2106.09685) on the attention projections, by the library peft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, LoraModel

from ..base import UnsupportedError
from ..pretrained.model import PretrainedModel
from .settings import LoraSettings

PROJECTIONS: Mapping[str, tuple[str, ...]] = {
    "bert": ("query", "key", "value", "attention.output.dense"),
    "gpt2": ("c_attn", "attn.c_proj"),
    **dict.fromkeys(("llama", "mistral", "qwen2"), ("q_proj", "k_proj", "v_proj", "o_proj")),
}
"""Names of the projections of queries, keys, values and outputs, by model type; GPT-2 joins the first three."""

_HEADS = ("classifier", "score", "cls")
"""Names of the heads of classifiers, the last for masked words."""


def add_lora(model: PretrainedModel, settings: LoraSettings, seed: int) -> LoraModel:
    """Adds low-rank adapters in float32 to a model and freezes its other weights.

    The head of a classifier is trained too, and with `train_maps` the attention cores: feature maps, and the gates of
    hybrids. `merge_and_unload` of the result adds the updates to the projections and removes the adapters, so that all
    layers have their original classes again.

    Args:
        model: The model, its attention swapped.
        settings: Rank, scale, dropout, and whether feature maps are trained.
        seed: Seed of the adapters' initial weights.

    Raises:
        UnsupportedError: The projections of the model type are not known.
    """
    inner: Any = model.inner
    kind, targets = inner.config.model_type, projections_of(model)
    model.requires_grad_(False)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(targets),
        fan_in_fan_out=kind == "gpt2",
    )
    torch.manual_seed(seed)
    adapters = LoraModel(inner, config, "default")
    for name, value in adapters.named_parameters():
        if "lora_" in name:  # in bfloat16 the small steps of training would be lost in rounding
            value.data = value.data.float()
    cores = model.cores if settings.train_maps else []
    for part in (*cores, *(getattr(inner, name, None) for name in _HEADS)):
        if part is not None:
            part.requires_grad_(True)
    return adapters


def projections_of(model: PretrainedModel) -> tuple[str, ...]:
    """The names of a model's projections.

    Raises:
        UnsupportedError: They are not known.
    """
    inner: Any = model.inner
    kind = inner.config.model_type
    if kind not in PROJECTIONS:
        raise UnsupportedError(f"LoRA is not set up for model type {kind!r}; it is for {', '.join(PROJECTIONS)}")
    return PROJECTIONS[kind]

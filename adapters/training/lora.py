"""Low-rank adapters (LoRA, arXiv:2106.09685) on the attention projections, through the library peft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base import UnsupportedError
from ..pretrained.model import PretrainedModel
from .settings import LoraSettings

PROJECTIONS: Mapping[str, tuple[str, ...]] = {
    "bert": ("query", "key", "value", "attention.output.dense"),
    "gpt2": ("c_attn", "attn.c_proj"),
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mistral": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "qwen2": ("q_proj", "k_proj", "v_proj", "o_proj"),
}
"""Names of the projections of queries, keys, values and outputs, by model type; GPT-2 joins the first three."""


class Lora:
    """Low-rank adapters in a model; other weights are frozen, except feature maps and a new classification head.

    Args:
        model: The model, its attention swapped.
        settings: Rank and scale.
        seed: Seed of the initial weights.

    Raises:
        UnsupportedError: The projections of the model type are not known.
    """

    def __init__(self, model: PretrainedModel, settings: LoraSettings, seed: int) -> None:
        import torch
        from peft import LoraConfig, inject_adapter_in_model

        inner: Any = model.inner
        kind = inner.config.model_type
        if kind not in PROJECTIONS:
            raise UnsupportedError(f"LoRA is not set up for model type {kind!r}; it is for {', '.join(PROJECTIONS)}")
        model.requires_grad_(False)
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=list(PROJECTIONS[kind]),
            fan_in_fan_out=kind == "gpt2",
        )
        torch.manual_seed(seed)
        inject_adapter_in_model(config, inner)
        cores = model.swap.cores if settings.train_maps else []
        for part in (*cores, getattr(inner, "classifier", None), getattr(inner, "score", None)):
            if part is not None:
                part.requires_grad_(True)
        self.model = model

    def merge(self) -> None:
        """Adds the updates to the projections and removes the adapters: all layers have their own types again."""
        from peft.tuners.lora import LoraLayer

        for name, part in list(self.model.inner.named_modules()):
            if isinstance(part, LoraLayer):
                part.merge(safe_merge=True)
                parent, _, child = name.rpartition(".")
                setattr(self.model.inner.get_submodule(parent), child, part.get_base_layer())

"""Backbones trained from scratch: their sizes at each scale, declared without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .base import Capability, Settings

SCALES = ("smoke", "small", "paper")

_SHARED: Settings = {"rope": False, "short_conv": 0, "dropout": 0.0}


@dataclass(frozen=True)
class Backbone:
    """A model family without its attention.

    Attributes:
        name: Name for `--backbone` and in model specs.
        summary: One line for `bench list backbones`.
        capabilities: What models of it can do.
        sizes: Settings at each scale; each can be set with `--set backbone.KEY=VALUE`.
    """

    name: str
    summary: str
    capabilities: frozenset[Capability]
    sizes: Mapping[str, Settings] = field(default_factory=dict)


def _sizes(smoke: Settings, small: Settings, paper: Settings) -> dict[str, Settings]:
    return {scale: {**_SHARED, **size} for scale, size in zip(SCALES, (smoke, small, paper), strict=True)}


def _transformer(layers: int, heads: int, width: int, **more: int) -> Settings:
    return {"layers": layers, "heads": heads, "kv_heads": heads, "width": width, "mlp_width": 4 * width, **more}


GPT = Backbone(
    name="gpt",
    summary="decoder with pre-layer-norm blocks; paper scale is GPT-2 small's 124M shape",
    capabilities=frozenset({Capability.LANGUAGE_MODEL, Capability.GENERATE, Capability.ATTENTION_WEIGHTS}),
    sizes=_sizes(_transformer(2, 2, 64), _transformer(4, 4, 128), _transformer(12, 12, 768)),
)

ENCODER = Backbone(
    name="encoder",
    summary="bidirectional encoder over tokens with mean pooling and a classification head",
    capabilities=frozenset({Capability.CLASSIFIER, Capability.ATTENTION_WEIGHTS}),
    sizes=_sizes(_transformer(2, 2, 64), _transformer(4, 4, 128), _transformer(12, 12, 768)),
)

VIT = Backbone(
    name="vit",
    summary="encoder over image patches with a class token; paper scale is ViT-B/16's shape",
    capabilities=frozenset({Capability.CLASSIFIER, Capability.ATTENTION_WEIGHTS}),
    sizes=_sizes(
        _transformer(2, 2, 64, patch_size=4),
        _transformer(4, 4, 128, patch_size=4),
        _transformer(12, 12, 768, patch_size=16),
    ),
)

BACKBONES: Mapping[str, Backbone] = {backbone.name: backbone for backbone in (GPT, ENCODER, VIT)}

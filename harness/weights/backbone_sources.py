"""What cells need of a backbone: its declaration, its weights, and its tokenizer for the task's data."""

from __future__ import annotations

from dataclasses import replace

from ...tasks.base import BackboneTokenizer, Sources
from .backbone_names import backbone_from_name
from .locate import Weights, locate, materialise


def find_weights(name: str, sources: Sources) -> Weights | None:
    """Where the weights of a backbone are; None for one that is trained from scratch. Errors as of `locate`."""
    backbone = backbone_from_name(name, sources)
    return None if backbone.checkpoint is None else locate(backbone, sources)


def sources_for(weights: Weights | None, sources: Sources, *, fetch: bool) -> Sources:
    """The sources of a task's data, with the tokenizer of the pretrained backbone where there is one.

    Args:
        weights: Where the backbone's weights are.
        sources: Where data may come from.
        fetch: Download or convert the checkpoint, so that its tokenizer can be read and not only named.
    """
    if weights is None:
        return sources
    file = materialise(weights, sources) / "tokenizer.json" if fetch else None
    return replace(sources, tokenizer=BackboneTokenizer(weights.name, weights.fingerprint, file))

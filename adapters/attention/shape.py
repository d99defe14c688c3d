"""The sizes of a backbone's attention layer, from its settings or its configuration, without building the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..backbone import CheckpointError
from ..base import Settings
from ..mechanisms.declaration import AttentionShape

_NAMES = {"heads": ("num_attention_heads", "n_head"), "width": ("hidden_size", "n_embd")}
"""Names of the sizes in config.json, the second of each for GPT-2."""


def shape_of_settings(size: Settings, context_length: int, seed: int) -> AttentionShape:
    """The layer of a backbone that is trained from scratch."""
    heads, kv_heads, width = (int(str(size[name])) for name in ("heads", "kv_heads", "width"))
    return AttentionShape(heads, kv_heads, width // heads, context_length, seed=seed, width=width)


def shape_of_config(config: Mapping[str, Any], where: str, context_length: int, seed: int) -> AttentionShape:
    """The layer of a pretrained model with this configuration; `where` names it in messages.

    Raises:
        CheckpointError: The configuration lacks a size.
    """
    found: dict[str, int] = {}
    for size, names in _NAMES.items():
        if not (values := [int(config[name]) for name in names if name in config]):
            raise CheckpointError(f"{where} has none of {', '.join(names)}, the model's {size}")
        found[size] = values[0]
    heads = found["heads"]
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = int(config.get("head_dim") or found["width"] // heads)
    return AttentionShape(heads, kv_heads, head_dim, context_length, seed=seed)

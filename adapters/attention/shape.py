"""The sizes of a backbone's attention layer, from its settings or its checkpoint, without building the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...results.foreign import parse_json
from ..backbone import CheckpointError
from ..base import Settings
from ..mechanisms.declaration import AttentionShape

_NAMES = {"heads": ("num_attention_heads", "n_head"), "width": ("hidden_size", "n_embd")}
"""Keys of config.json by what they say; GPT-2 has names of its own."""


def shape_of_settings(size: Settings, context_length: int, seed: int) -> AttentionShape:
    """The layer of a backbone that is trained from scratch."""
    heads, width = int(str(size["heads"])), int(str(size["width"]))
    kv_heads = int(str(size["kv_heads"]))
    return AttentionShape(heads, kv_heads, width // heads, context_length, seed=seed)


def shape_of_checkpoint(folder: Path, context_length: int, seed: int) -> AttentionShape:
    """The layer of a pretrained model, as its config.json says.

    Raises:
        CheckpointError: It does not say.
    """
    config: dict[str, Any] = parse_json((folder / "config.json").read_bytes())
    found: dict[str, int] = {}
    for what, names in _NAMES.items():
        values = [int(config[name]) for name in names if name in config]
        if not values:
            raise CheckpointError(f"{folder / 'config.json'} has none of {', '.join(names)}, the model's {what}")
        found[what] = values[0]
    heads = found["heads"]
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = int(config.get("head_dim") or found["width"] // heads)
    return AttentionShape(heads, kv_heads, head_dim, context_length, seed=seed)

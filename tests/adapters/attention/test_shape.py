"""The sizes of a backbone's attention layer, from its settings and from a checkpoint."""

from __future__ import annotations

from typing import Any

import pytest

from hedgebench.adapters.attention.shape import shape_of_config, shape_of_settings
from hedgebench.adapters.backbone import BACKBONES, CheckpointError
from hedgebench.adapters.mechanisms.declaration import AttentionShape


def test_a_backbone_from_scratch_has_the_layer_of_its_settings() -> None:
    shape = shape_of_settings(BACKBONES["gpt"].sizes["paper"], 1024, 3)
    assert shape == AttentionShape(heads=12, kv_heads=12, head_dim=64, context_length=1024, seed=3, width=768)


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        ({"n_head": 12, "n_embd": 768}, (12, 12, 64)),
        ({"num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}, (32, 8, 128)),
        ({"num_attention_heads": 16, "hidden_size": 1024, "head_dim": 128, "num_key_value_heads": None}, (16, 16, 128)),
    ],
)
def test_a_checkpoint_says_which_layer_it_has(config: dict[str, Any], sizes: tuple[int, ...]) -> None:
    shape = shape_of_config(config, "config.json", 512, 0)
    assert (shape.heads, shape.kv_heads, shape.head_dim) == sizes


def test_a_checkpoint_that_does_not_say_is_refused() -> None:
    with pytest.raises(CheckpointError, match="none of num_attention_heads, n_head, the model's heads"):
        shape_of_config({"hidden_size": 8}, "config.json", 512, 0)

"""The sizes of a backbone's attention layer, from its settings and from a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hedgebench.adapters.attention.shape import shape_of_checkpoint, shape_of_settings
from hedgebench.adapters.backbone import BACKBONES, CheckpointError
from hedgebench.adapters.mechanisms.declaration import AttentionShape


def test_a_backbone_from_scratch_has_the_layer_of_its_settings() -> None:
    shape = shape_of_settings(BACKBONES["gpt"].sizes["paper"], 1024, 3)
    assert shape == AttentionShape(heads=12, kv_heads=12, head_dim=64, context_length=1024, seed=3)


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        ({"n_head": 12, "n_embd": 768}, (12, 12, 64)),
        ({"num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}, (32, 8, 128)),
        ({"num_attention_heads": 16, "hidden_size": 1024, "head_dim": 128, "num_key_value_heads": None}, (16, 16, 128)),
    ],
)
def test_a_checkpoint_says_which_layer_it_has(config: object, sizes: tuple[int, ...], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shape = shape_of_checkpoint(tmp_path, 512, 0)
    assert (shape.heads, shape.kv_heads, shape.head_dim) == sizes


def test_a_checkpoint_that_does_not_say_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": 8}', encoding="utf-8")
    with pytest.raises(CheckpointError, match="none of num_attention_heads, n_head, the model's heads"):
        shape_of_checkpoint(tmp_path, 512, 0)

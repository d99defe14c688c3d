from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

from hedgebench.adapters.backbone import CheckpointError
from hedgebench.adapters.pretrained.weight_files import (
    pickled_files,
    read_config,
    safetensors_files,
    transformers_config,
)

from ..tiny_models import save_tiny, tiny_model


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path, max_shard_size="40KB")
    lost = sorted(tmp_path.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(CheckpointError, match=f"lacks 1 of .* shards: {lost.name}"):
        safetensors_files(tmp_path)


def test_shards_outside_the_folder_are_refused(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "model")
    (folder / "model.safetensors").rename(tmp_path / "other.safetensors")
    index = {"weight_map": {"lm_head.weight": "../other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"shards outside its folder: \.\./other\.safetensors"):
        safetensors_files(folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": []}'])
def test_a_damaged_index_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match="is not an index of shards"):
        safetensors_files(tmp_path)


def test_a_model_of_flash_linear_attention_is_read_on_a_gpu_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gated_deltanet", "num_heads": 3}')
    with pytest.raises(CheckpointError, match="'gated_deltanet', and the classes of flash-linear-attention"):
        transformers_config(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that there is no GPU
        pytest.importorskip("fla.models")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert transformers_config(tmp_path).num_heads == 3
    (tmp_path / "config.json").write_text('{"model_type": "gated_deltanot"}')
    with pytest.raises(CheckpointError, match="does not recognize this architecture"):
        transformers_config(tmp_path)


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        read_config(tmp_path)


@pytest.mark.parametrize(("content", "reason"), [("{", "is not JSON"), ("[]", "holds a list, not an object")])
def test_a_damaged_config_is_refused(content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=reason):
        read_config(tmp_path)


def test_pickled_weights_are_told_from_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no weights"):
        safetensors_files(tmp_path)
    for name in ("pytorch_model.bin", "model.pt"):
        (tmp_path / name).touch()
    assert [file.name for file in pickled_files(tmp_path)] == ["model.pt", "pytorch_model.bin"]
    with pytest.raises(CheckpointError, match=r"only pickled weights \(model\.pt, pytorch_model\.bin\)"):
        safetensors_files(tmp_path)

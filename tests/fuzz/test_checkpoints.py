"""Whatever the files of a checkpoint hold, their readers end in a value or a documented error."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hedgebench.adapters.backbone import CheckpointError
from hedgebench.adapters.gguf.file import dequantise, gguf_config
from hedgebench.adapters.pretrained.load import stored_tensors
from hedgebench.adapters.pretrained.tokenizer import load_tokenizer
from hedgebench.adapters.pretrained.weight_files import read_config, safetensors_files, transformers_config
from hedgebench.adapters.training.checkpoint import DamagedCheckpointError, load_checkpoint, save_checkpoint

from ..adapters.tiny_models import save_tiny
from .damaging import damaged, ends, every_input, odd_json, write


@cache
def gguf(folder: Path) -> bytes:
    from gguf import GGUFWriter

    writer = GGUFWriter(folder / "whole.gguf", "llama")
    for key, value in (("embedding_length", 8), ("feed_forward_length", 8), ("block_count", 1), ("context_length", 16)):
        writer.add_uint32(f"llama.{key}", value)
    writer.add_uint32("llama.attention.head_count", 2)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "ab", "</s>"])
    writer.add_token_types([1, 1, 1, 3])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(3)
    for name, shape in (("token_embd.weight", (4, 8)), ("blk.0.attn_q.weight", (8, 8)), ("output_norm.weight", (8,))):
        writer.add_tensor(name, np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return (folder / "whole.gguf").read_bytes()


@every_input
def test_gguf(place: Path, chance: Random) -> None:
    file = write(place / "a.gguf", damaged(chance, gguf(place)))
    ends(lambda: gguf_config(file), CheckpointError)
    ends(lambda: dequantise(file, place / "dequantised"), CheckpointError)


@pytest.fixture(scope="module")
def checkpoint(place: Path) -> Path:
    """A tiny model; its folder's files are damaged one at a time."""
    return save_tiny("llama", place / "checkpoint")


def of_checkpoint(checkpoint: Path, name: str, content: bytes, read: Callable[[Path], Any]) -> None:
    file = checkpoint / name
    whole = file.read_bytes() if file.exists() else None
    file.write_bytes(content)
    try:
        ends(lambda: read(checkpoint), CheckpointError)
    finally:
        file.unlink() if whole is None else file.write_bytes(whole)


@every_input
def test_safetensors(checkpoint: Path, chance: Random) -> None:
    whole = (checkpoint / "model.safetensors").read_bytes()
    header = whole[: 8 + int.from_bytes(whole[:8], "little")]
    content = damaged(chance, header) + whole[len(header) :]
    of_checkpoint(checkpoint, "model.safetensors", content, stored_tensors)


@every_input
def test_indices_of_shards(place: Path, chance: Random) -> None:
    folder = place / "sharded"
    write(folder / "a.safetensors", b"")
    content = odd_json(chance, {"weight_map": {"x": "a.safetensors", "y": "a.safetensors"}})
    write(folder / "model.safetensors.index.json", content)
    ends(lambda: safetensors_files(folder), CheckpointError)


@every_input
def test_configurations_of_checkpoints(checkpoint: Path, chance: Random) -> None:
    whole = (checkpoint / "config.json").read_bytes()
    content = odd_json(chance, json.loads(whole)) if chance.random() < 0.5 else damaged(chance, whole)
    of_checkpoint(checkpoint, "config.json", content, read_config)
    of_checkpoint(checkpoint, "config.json", content, transformers_config)


@every_input
def test_tokenizers(checkpoint: Path, chance: Random) -> None:
    name = chance.choice(("tokenizer.json", "tokenizer_config.json"))
    whole = (checkpoint / name).read_bytes() if (checkpoint / name).exists() else b'{"tokenizer_class": "X", "a": 1}'
    content = odd_json(chance, json.loads(whole)) if chance.random() < 0.5 else damaged(chance, whole)
    of_checkpoint(checkpoint, name, content, load_tokenizer)


@cache
def trained(folder: Path) -> bytes:
    model = nn.Linear(2, 2)
    save_checkpoint(folder / "whole.pt", model, torch.optim.AdamW(model.parameters()), {"step": 1})
    return (folder / "whole.pt").read_bytes()


@every_input
def test_checkpoints_of_trainings(place: Path, chance: Random) -> None:
    whole = trained(place) if chance.random() < 0.5 else trained(place).rpartition(b"\nsha256:")[0]
    file, model = write(place / "a.pt", damaged(chance, whole)), nn.Linear(2, 2)
    ends(lambda: load_checkpoint(file, model, torch.optim.AdamW(model.parameters())), DamagedCheckpointError)


def test_what_is_whole_is_read(place: Path, checkpoint: Path) -> None:
    """Otherwise the others would try only what is refused at once."""
    dequantise(write(place / "a.gguf", gguf(place)), place / "dequantised")
    assert stored_tensors(checkpoint)
    assert load_tokenizer(checkpoint).encode("a")

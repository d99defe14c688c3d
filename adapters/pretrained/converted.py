"""Converted models on disk: the layout of transformers, with the attention that replaces softmax.

A folder holds `model.hedgebench.safetensors` with every weight, feature maps included; `config.json` of the type
`hedgebench`, with the base model's configuration and the description from which the attention is rebuilt; the
tokenizer; and `provenance.json`, which records the origin of the model. Nothing is pickled, and reading the folder runs
no code from it.

transformers alone refuses the folder, as it knows neither the type nor the names of the weights. With the type and
names of the base model it would run softmax attention instead. Folders of earlier versions of hedgebench have the
base's type and names, and can still be read.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn

from ...results.foreign import format_json, parse_json
from ..backbone import CheckpointError
from .label_words import LabelWordModel
from .model import PretrainedModel
from .swap import CORE, Swap
from .weight_files import BASE, CONVERTED, TOKENIZER_FILES, read_config

PROVENANCE = "provenance.json"

_OF_CORE = re.compile(rf"\.(?P<layer>\d+)\..*\b{CORE}\.(?P<name>.+)")
"""Matches the name of a core's weight; the path before the layer's index differs between model and file."""


def save_converted(
    model: PretrainedModel, folder: Path, *, base: Path, context_length: int, provenance: Mapping[str, Any]
) -> None:
    """Writes a model to `folder` atomically.

    Args:
        model: The model; low-rank adapters must have been merged.
        folder: Folder to write; it must be empty or absent.
        base: Folder of the pretrained model, whose tokenizer is copied.
        context_length: Longest sequence of maps that depend on positions.
        provenance: Origin of the model, JSON-ready.

    Raises:
        CheckpointError: `folder` is not empty, or the model's classes are words for a mask.
    """
    if isinstance(model, LabelWordModel):
        raise CheckpointError("a model whose classes are words for a mask cannot be kept; convert it with head=pooled")
    if folder.exists() and any(folder.iterdir()):
        raise CheckpointError(f"{folder} is not empty; choose another folder, or empty it")
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    config: Any = model.inner.config
    implementation, config._attn_implementation = config._attn_implementation, model.swap.previous
    try:
        model.inner.save_pretrained(temporary, variant=CONVERTED)
    finally:
        config._attn_implementation = implementation
    entry = {"model": model.spec.canonical, "context_length": context_length}
    base_config = parse_json((temporary / "config.json").read_bytes())
    written = {"model_type": CONVERTED, CONVERTED: entry, BASE: base_config}
    (temporary / "config.json").write_text(format_json(written, indent=2) + "\n", encoding="utf-8")
    for name in TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, temporary / name)
    (temporary / PROVENANCE).write_text(format_json(provenance, indent=2) + "\n", encoding="utf-8")
    if folder.exists():
        folder.rmdir()
    temporary.replace(folder)


def conversion_of(folder: Path) -> Mapping[str, Any] | None:
    """The description of a converted model's attention; None for a model that was not converted.

    Raises:
        CheckpointError: The entry is incomplete.
    """
    config = read_config(folder)
    if CONVERTED not in config:
        return None
    entry = config[CONVERTED]
    if not isinstance(entry, dict) or not {"model", "context_length"} <= entry.keys():
        raise CheckpointError(f"{folder / 'config.json'}: {CONVERTED} is {entry!r}; it needs model and context_length")
    return entry


def put_core_weights(swap: Swap, folder: Path) -> None:
    """Reads the weights of attention cores from a converted model; transformers reads the others.

    Raises:
        CheckpointError: A core's weight is missing, unexpected, or of another shape.
    """
    weights: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as content:
            for name in content.keys():  # noqa: SIM118
                if f".{CORE}." in name:
                    of_core = _OF_CORE.search(name)
                    place = f"{of_core['layer']}.{of_core['name']}" if of_core else name
                    weights[place] = content.get_tensor(name)
    try:
        nn.ModuleList(bridge.core for bridge in swap.bridges).load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: weights of attention do not fit its config.json: {error}") from error

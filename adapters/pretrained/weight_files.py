"""The configuration and the weight files of a folder. This needs no torch, and runs no code from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...results.foreign import parse_json
from ..backbone import CheckpointError

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a folder's config.json.

    Raises:
        CheckpointError: The file is missing, or is not a JSON object.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(f"{folder} has no config.json; give a folder as transformers' save_pretrained writes it")
    try:
        config = parse_json(file.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{file} cannot be read: {error}; fetch it anew") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds a {type(config).__name__}, not an object; fetch it anew")
    return config


def safetensors_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors of a model: one file, or every shard in its index.

    Raises:
        CheckpointError: There are no weights, only pickled weights, or too few shards.
    """
    if (folder / WHOLE).is_file():
        return (folder / WHOLE,)
    if (folder / INDEX).is_file():
        return _shards(folder)
    if pickled := pickled_files(folder):
        names = ", ".join(file.name for file in pickled)
        raise CheckpointError(
            f"{folder} has only pickled weights ({names}), and those can run code; convert them to safetensors"
        )
    raise CheckpointError(f"{folder} has no weights: neither {WHOLE} nor {INDEX}")


def pickled_files(folder: Path) -> tuple[Path, ...]:
    """Pickled weight files."""
    return tuple(sorted(file for pattern in PICKLED for file in folder.glob(pattern)))


def _shards(folder: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(parse_json((folder / INDEX).read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / INDEX} is not an index of shards ({error!r}); fetch it anew") from error
    if outside := [name for name in names if Path(name).name != name]:
        raise CheckpointError(f"{folder / INDEX} names shards outside its folder: {', '.join(outside)}")
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise CheckpointError(f"{folder} lacks {len(missing)} of {len(names)} shards: {', '.join(missing[:5])}")
    return tuple(folder / name for name in names)

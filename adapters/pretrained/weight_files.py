"""The configuration and the weight files of a checkpoint.

Importing this module needs no torch. Nothing here runs code from a checkpoint unless the caller trusts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...results.foreign import parse_json
from ..backbone import CheckpointError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

CONVERTED = "hedgebench"
"""The `model_type` of converted models, the entry of config.json that describes their attention, and the variant in the
names of their weight files. transformers alone knows neither type nor variant, so it cannot run softmax instead."""

BASE = "base"
"""Entry in the config.json of a converted model that holds the configuration of the model before conversion."""

WHOLE = ("model.safetensors", f"model.{CONVERTED}.safetensors")
INDEX = ("model.safetensors.index.json", f"model.safetensors.index.{CONVERTED}.json")
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json", "vocab.json", "vocab.txt", "merges.txt"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "preprocessor_config.json"),
)
"""Files of a checkpoint that determine how its inputs are made from text or images."""
_LONGEST_NAME_BYTES = 255
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a folder's config.json; for a converted model that of its base, with the entry `CONVERTED` added.

    Raises:
        CheckpointError: The file is missing, or is not a JSON object.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(f"{folder} has no config.json; give a folder as transformers' save_pretrained writes it")
    try:
        config = parse_json(file.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{file} cannot be read: {error}; download it again") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds a {type(config).__name__}, not an object; download it again")
    if config.get("model_type") != CONVERTED:
        return config
    if not isinstance(base := config.get(BASE), dict):
        raise CheckpointError(
            f"{file} lacks {BASE}, the configuration of the model that was converted; download it again"
        )
    return {**base, CONVERTED: config.get(CONVERTED)}


def transformers_config(folder: Path, trust_remote_code: bool = False, **changes: Any) -> PretrainedConfig:
    """The configuration of the model in a folder, for a converted model that of its base.

    Args:
        folder: Folder with config.json.
        trust_remote_code: Run code that comes with the checkpoint.
        **changes: Entries that replace those of config.json.

    Raises:
        CheckpointError: config.json is missing or damaged, or its type may be flash-linear-attention's, and there is no
            GPU for its kernels.
    """
    from transformers import AutoConfig

    raw = read_config(folder)
    model_type = raw.get("model_type")
    if isinstance(model_type, str) and "auto_map" not in raw:  # the checkpoint brings no class of its own
        _know_types_of_fla(model_type)
    try:
        changes |= _rope_of_release_4(raw)
        if CONVERTED in raw:
            given = {name: value for name, value in raw.items() if name not in ("model_type", CONVERTED)}
            return AutoConfig.for_model(raw["model_type"]).from_dict(given, **changes)
        config: PretrainedConfig = AutoConfig.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True, **changes
        )
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # each class of transformers checks its values, or fails on them, in its own way
        told = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        raise CheckpointError(f"{folder / 'config.json'} is no configuration of a model ({told})") from error
    return config


def _know_types_of_fla(model_type: str) -> None:
    """Makes transformers know the classes of flash-linear-attention if it lacks the type and that package is there."""
    import torch
    from transformers import CONFIG_MAPPING

    if not any(distributions(name="flash-linear-attention")):
        return
    has_gpu = torch.cuda.is_available()
    if model_type not in CONFIG_MAPPING and has_gpu:
        import_module("fla.models")
    own = model_type in CONFIG_MAPPING and not CONFIG_MAPPING[model_type].__module__.startswith("fla.")
    if not own and not has_gpu:
        raise CheckpointError(
            f"transformers has no model type {model_type!r}, and the classes of flash-linear-attention, which may have "
            "it, run on a GPU alone"
        )


def release() -> int:
    """The release of transformers: in 4 fewer types ask its attention interface, and caches are others than in 5."""
    import transformers

    return int(transformers.__version__.partition(".")[0])


def _rope_of_release_4(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings of transformers 5 in the form of transformers 4, which would otherwise use its defaults."""
    rope = raw.get("rope_parameters")
    if not rope or "rope_theta" in raw or release() >= 5:
        return {}
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    return {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": scaling if scaling.get("rope_type", "default") != "default" else None,
    }


def weights_variant(folder: Path) -> str | None:
    """The variant in the names of a folder's safetensors, as transformers takes it; None without one."""
    return CONVERTED if any((folder / name).is_file() for name in (WHOLE[1], INDEX[1])) else None


def safetensors_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors of a model: one file, or every shard in its index.

    Raises:
        CheckpointError: There are no weights, only pickled weights, or missing shards.
    """
    for name in WHOLE:
        if (folder / name).is_file():
            return (folder / name,)
    for name in INDEX:
        if (folder / name).is_file():
            return _shards(folder / name)
    if pickled := pickled_files(folder):
        names = ", ".join(file.name for file in pickled)
        raise CheckpointError(
            f"{folder} has only pickled weights ({names}), and those can run code; convert them to safetensors"
        )
    raise CheckpointError(f"{folder} has no weights: neither {WHOLE[0]} nor {INDEX[0]}")


def pickled_files(folder: Path) -> tuple[Path, ...]:
    """Pickled weight files."""
    return tuple(sorted(file for pattern in PICKLED for file in folder.glob(pattern)))


def _shards(index: Path) -> tuple[Path, ...]:
    folder = index.parent
    try:
        names = sorted(set(parse_json(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not an index of shards ({error!r}); download it again") from error
    if odd := [name for name in names if not isinstance(name, str) or len(name.encode()) > _LONGEST_NAME_BYTES]:
        raise CheckpointError(f"{index} is not an index of shards: {str(odd[0])[:40]!r} is no file's name")
    if outside := [name for name in names if Path(name).name != name]:
        raise CheckpointError(f"{index} names shards outside its folder: {', '.join(outside)}")
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise CheckpointError(f"{folder} lacks {len(missing)} of {len(names)} shards: {', '.join(missing[:5])}")
    return tuple(folder / name for name in names)

"""Backbones by name: the declared ones, and any checkpoint of a supported type as `hf:ID_OR_FOLDER`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...adapters.backbone import BACKBONES, Backbone, Checkpoint, capabilities_of, pretrained
from ...adapters.gguf.file import gguf_config
from ...adapters.pretrained.weight_files import read_config
from ...results.names import UnknownNameError, unknown_name
from ...tasks.base import Sources
from ...tasks.data.sources import REACH_TIMEOUT_S, cached_revision, find_copy, hub_errors, local_copies, unavailable

PREFIX = "hf:"
_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def backbone_from_name(name: str, sources: Sources) -> Backbone:
    """The backbone of that name.

    `hf:FOLDER` and `hf:FILE.gguf` stand for a local checkpoint. `hf:ID` stands for a checkpoint in the mirror; else for
    the hub's, at the revision that its cache knows; else at the hub's default revision, which is pinned in the result.

    Args:
        name: A declared name, or `hf:` with a path or an id.
        sources: Where to look.

    Raises:
        UnknownNameError: There is no such backbone or folder, and the name is no id.
        CheckpointError: The checkpoint's config.json is missing, damaged, or of an unsupported type.
        DataUnavailableError: The config.json of an id is neither in the mirror nor on the hub nor in its cache.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    if not name.startswith(PREFIX):
        raise unknown_name("backbone", name, [*BACKBONES, f"{PREFIX}ID_OR_FOLDER"])
    place = name.removeprefix(PREFIX)
    path = Path(place).expanduser()
    if place and path.exists():
        config = gguf_config(path) if path.is_file() else _config_in(path)
        return _declare(name, config, Checkpoint(repo="", revision="", folder=str(path.resolve())))
    if not _ID.fullmatch(place) or place.startswith("."):
        raise UnknownNameError(f"backbone {name!r}: there is no folder {place!r}, and it is no id such as ORG/NAME")
    return _from_id(name, place, sources)


def _declare(name: str, config: Mapping[str, Any], checkpoint: Checkpoint) -> Backbone:
    return pretrained(
        name, str(config.get("model_type")), checkpoint, capabilities=capabilities_of(config, checkpoint.folder or name)
    )


def _config_in(folder: Path) -> dict[str, Any]:
    ggufs = sorted(folder.glob("*.gguf"))
    return gguf_config(ggufs[0]) if ggufs and not (folder / "config.json").is_file() else read_config(folder)


def _from_id(name: str, repo: str, sources: Sources) -> Backbone:
    revision = cached_revision(repo, sources, kind="models")
    places = local_copies(repo, revision, sources, kind="models")
    places.setdefault("hub cache", "it has no default revision of it")

    def look(place: str, folder: Path) -> dict[str, Any] | str:
        if place == "hub cache" and not (folder / "config.json").is_file():
            return "it has no config.json"
        return _config_in(folder) if folder.is_dir() else "there is no such folder"

    if found := find_copy(name, places, look, sources):
        return _declare(name, found[1], Checkpoint(repo, revision if found[0] == "hub cache" else ""))
    revision, config = _ask_hub(name, repo)
    return _declare(name, config, Checkpoint(repo, revision))


def _ask_hub(name: str, repo: str) -> tuple[str, dict[str, Any]]:
    from huggingface_hub import HfApi, hf_hub_download

    try:
        revision = str(HfApi().model_info(repo, timeout=REACH_TIMEOUT_S).sha)
        file = hf_hub_download(repo, "config.json", revision=revision, etag_timeout=REACH_TIMEOUT_S)
    except hub_errors() as error:
        raise unavailable(name, [f"hub: {repo} ({type(error).__name__})"]) from error
    return revision, read_config(Path(file).parent)

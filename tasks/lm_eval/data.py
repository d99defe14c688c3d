"""Finds and reads the data of an lm-eval task: in a mirror folder, then in the hub's cache, then on the hub.

lm-eval's configurations name repositories and no revisions. What is read is identified all the same: a local copy by
the hash of its files, the hub's by the commit that its default branch has.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...results.record import DataIdentity
from ..base import DataUnavailableError, Sources
from ..data.sources import (
    REACH_TIMEOUT_S,
    DatasetId,
    count_rows,
    hash_files,
    hub_errors,
    hub_problem,
    hub_snapshot,
    mirror_folder,
    split_files,
    unavailable,
)
from .config import TaskConfig

if TYPE_CHECKING:
    from datasets import DatasetDict

FORMATS = frozenset({"arrow", "csv", "json", "parquet", "text"})
"""Values of `dataset_path` that name a file format; the files are then in `dataset_kwargs`."""


@dataclass(frozen=True)
class Wanted:
    """What a task reads.

    Attributes:
        repo: Repository on the hub, or one of `FORMATS`.
        config: Configuration of the data; None for the only one.
        splits: Splits that must be there; empty for whatever is there.
        options: What else the task's configuration tells the library `datasets`.
    """

    repo: str
    config: str | None
    splits: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.repo} ({self.config})" if self.config else self.repo


@dataclass(frozen=True)
class Place:
    """Where the data are.

    Attributes:
        source: `mirror`, `hub` or `folder`.
        files: Files of each split; empty when the hub has them.
        folder: Local copy of the repository, where there is one.
        revision: Commit on the hub, where they are the hub's.
        is_plain: Whether the files are parquet in the layout of mirrors, and no code or README need be asked.
    """

    source: str
    files: Mapping[str, tuple[Path, ...]]
    folder: Path | None = None
    revision: str = ""
    is_plain: bool = False


def wanted(config: TaskConfig, shots: int) -> Wanted:
    """What a task reads with so many examples in its prompt."""
    options = dict(config.values.get("dataset_kwargs") or {})
    options.pop("trust_remote_code", None)  # code of a data set never runs here, whatever the task says
    return Wanted(config.repo, config.data_config, config.splits(shots), options)


def identify_data(what: Wanted, sources: Sources) -> DataIdentity:
    """Which data `load_data` would read.

    Raises:
        DataUnavailableError: They are nowhere to be had.
    """
    place = find_data(what, sources)
    return DataIdentity(
        id=f"{what.repo}/{what.config}" if what.config else what.repo,
        revision=place.revision,
        fingerprint=hash_files(place.files, sources) if place.files else place.revision,
        source=place.source,
        splits={split: count_rows(files) for split, files in place.files.items()} if place.is_plain else {},
    )


def load_data(what: Wanted, sources: Sources) -> DatasetDict:
    """The splits, by name.

    Raises:
        DataUnavailableError: They are nowhere to be had.
    """
    place = find_data(what, sources)
    cache = str(sources.cache / "datasets")
    if not place.files:
        import datasets

        return datasets.load_dataset(what.repo, what.config, revision=place.revision, **_unpinned(what.options))
    with _no_network() as datasets:
        if place.is_plain:
            files = {split: [str(file) for file in paths] for split, paths in place.files.items()}
            return datasets.load_dataset("parquet", data_files=files, cache_dir=cache)
        where = str(place.folder) if place.folder else what.repo
        return datasets.load_dataset(where, what.config, cache_dir=cache, **_unpinned(what.options))


def find_data(what: Wanted, sources: Sources) -> Place:
    """The first place that has every split.

    Raises:
        DataUnavailableError: No place has; the message names each and what it lacks.
    """
    if what.repo in FORMATS:
        return _own_files(what)
    looked: list[str] = []
    revision = str(what.options.get("revision") or _cached_revision(what.repo, sources))
    cached = hub_snapshot(what.repo, revision, sources, kind="datasets") if revision else None
    for source, folder in (("mirror", mirror_folder(what.repo, sources, kind="datasets")), ("hub cache", cached)):
        if folder is None or not folder.is_dir():
            looked.append(f"{source} {folder}: there is no such folder" if folder else f"{source}: it has no copy")
            continue
        found = _in_folder(what, source, folder)
        if isinstance(found, Place):
            return found
        looked.append(f"{source} {folder}: {found}")
    if problem := hub_problem(sources):
        raise unavailable(str(what), [*looked, problem])
    return Place("hub", {}, revision=_ask_hub(what, revision))


def _in_folder(what: Wanted, source: str, folder: Path) -> Place | str:
    """The place that a local copy is, or what it lacks."""
    kind = source.partition(" ")[0]
    plain = _plain_files(what, folder)
    is_plain = any(plain.values())
    found = plain if is_plain else _files_by_readme(what, folder)
    if isinstance(found, str):
        return found
    if missing := [split for split in what.splits if not found.get(split)]:
        present = ", ".join(split for split in found if found[split])
        return f"it has {present or 'no split'} but no {', '.join(missing)}"
    return Place(kind, found, folder, is_plain=is_plain)


def _plain_files(what: Wanted, folder: Path) -> dict[str, tuple[Path, ...]]:
    """Files in the layout `CONFIG/SPLIT-*.parquet`; nothing where options ask for another reading."""
    if what.options or not what.splits:
        return {}
    configs = [what.config] if what.config else sorted({path.parent.name for path in folder.glob("*/*.parquet")})
    if len(configs) != 1:
        return {}
    dataset = DatasetId(what.repo, configs[0], "", what.splits)
    return {split: split_files(folder, dataset, split) for split in what.splits}


def _files_by_readme(what: Wanted, folder: Path) -> dict[str, tuple[Path, ...]] | str:
    """Files as the library `datasets` finds them by the folder's README and names; why not, where it finds none."""
    with _no_network() as datasets:
        try:
            builder = datasets.load_dataset_builder(str(folder), what.config, **_unpinned(what.options))
        except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
            return str(error).strip().partition("\n")[0]
    found = builder.config.data_files or {}
    return {str(split): tuple(Path(file) for file in files) for split, files in found.items()}


def _own_files(what: Wanted) -> Place:
    named = what.options.get("data_files") or {}
    by_split = named if isinstance(named, Mapping) else {"train": named}
    files = {
        split: tuple(Path(file) for file in ([value] if isinstance(value, str) else value))
        for split, value in by_split.items()
    }
    if missing := [str(file) for paths in files.values() for file in paths if not file.is_file()]:
        raise DataUnavailableError(
            f"{what.repo} files that the task's configuration names are not on this machine: {', '.join(missing)}"
        )
    return Place("folder", files)


def _cached_revision(repo: str, sources: Sources) -> str:
    """The commit that the hub's cache last saw as the default; empty where it knows none."""
    reference = hub_snapshot(repo, "", sources, kind="datasets").parent / "refs" / "main"
    return reference.read_text(encoding="ascii").strip() if reference.is_file() else ""


def _ask_hub(what: Wanted, revision: str) -> str:
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(what.repo, revision=revision or None, timeout=REACH_TIMEOUT_S).sha)
    except hub_errors() as error:
        raise unavailable(str(what), [f"hub: {what.repo} ({type(error).__name__})"]) from error


def _unpinned(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "revision"}


@contextlib.contextmanager
def _no_network() -> Iterator[Any]:
    """The library `datasets`, told to stay offline: even local files cost it a name lookup of a download counter."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import datasets
    from datasets import config

    datasets.disable_progress_bars()
    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = True
    try:
        yield datasets
    finally:
        config.HF_HUB_OFFLINE = before

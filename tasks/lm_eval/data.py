"""Finds and reads the data of an lm-eval task: in a mirror folder, then in the hub's cache, then on the hub.

lm-eval's configurations name repositories, and few name a revision. A local copy is identified by the hash of its
files, the hub's data by the commit of the named revision or of the default branch.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...results.record import DataIdentity
from ..base import DataUnavailableError, Sources
from ..data.file_hashes import datasets_cache, hash_files
from ..data.sources import (
    REACH_TIMEOUT_S,
    DatasetId,
    cached_revision,
    count_rows,
    find_copy,
    hub_errors,
    local_copies,
    split_files,
    unavailable,
)
from .config import TaskConfig

if TYPE_CHECKING:
    from datasets import DatasetDict

README = "README.md"

FORMATS = frozenset({"arrow", "csv", "json", "parquet", "text"})
"""Values of `dataset_path` that name a file format; the files are then in `dataset_kwargs`."""


@dataclass(frozen=True)
class Wanted:
    """The data that a task reads.

    Attributes:
        repo: Repository on the hub, or one of `FORMATS`.
        config: Configuration of the data; None for the only one.
        splits: Splits that must exist; empty if all that exist may be read.
        options: Further arguments of the library `datasets` in the task's configuration.
    """

    repo: str
    config: str | None
    splits: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.repo} ({self.config})" if self.config else self.repo

    @property
    def unpinned(self) -> dict[str, Any]:
        """The options without a revision."""
        return {name: value for name, value in self.options.items() if name != "revision"}


@dataclass(frozen=True)
class DataLocation:
    """Where the data are.

    Attributes:
        source: `mirror`, `hub` or `folder`.
        files: Files of each split; empty if only the hub has them.
        folder: Local copy of the repository, if there is one.
        revision: Commit on the hub, if only the hub has the data; else empty.
        is_plain: Whether the files are parquet in the layout of mirrors, which needs neither code nor a README.
    """

    source: str
    files: Mapping[str, tuple[Path, ...]]
    folder: Path | None = None
    revision: str = ""
    is_plain: bool = False

    @property
    def content(self) -> Mapping[str, tuple[Path, ...]]:
        """All files that decide the rows: those of the splits, and the README that says how they are read."""
        readme = self.folder / README if self.folder and not self.is_plain else None
        return {**self.files, README: (readme,)} if readme and readme.is_file() else self.files


def wanted(config: TaskConfig, shots: int) -> Wanted:
    """The data that a task reads with `shots` examples in its prompt."""
    options = dict(config.values.get("dataset_kwargs") or {})
    options.pop("trust_remote_code", None)  # code of a data set never runs here, whatever the task says
    return Wanted(config.repo, config.data_config, config.splits(shots), options)


def identify_data(what: Wanted, sources: Sources) -> DataIdentity:
    """Which data `load_data` would read.

    Raises:
        DataUnavailableError: No place has them.
    """
    found = find_data(what, sources)
    return DataIdentity(
        id=f"{what.repo}/{what.config}" if what.config else what.repo,
        revision=found.revision,
        fingerprint=hash_files(found.content, sources) if found.files else found.revision,
        source=found.source,
        splits={split: count_rows(files) for split, files in found.files.items()} if found.is_plain else {},
    )


def load_data(what: Wanted, sources: Sources) -> DatasetDict:
    """The splits, by name; the library `datasets` downloads them if only the hub has them.

    Raises:
        DataUnavailableError: No place has them.
    """
    found = find_data(what, sources)
    if not found.files:
        import datasets

        return datasets.load_dataset(what.repo, what.config, revision=found.revision, **what.unpinned)
    cache = datasets_cache(found.content, sources)
    with _no_network() as datasets:
        if found.is_plain:
            files = {split: [str(file) for file in paths] for split, paths in found.files.items()}
            return datasets.load_dataset("parquet", data_files=files, cache_dir=cache)
        return datasets.load_dataset(str(found.folder or what.repo), what.config, cache_dir=cache, **what.unpinned)


def find_data(what: Wanted, sources: Sources) -> DataLocation:
    """The first place that has every split.

    Raises:
        DataUnavailableError: No place has them; the message names each and what it lacks.
    """
    if what.repo in FORMATS:
        return _own_files(what)
    revision = str(what.options.get("revision") or cached_revision(what.repo, sources, kind="datasets"))
    places = local_copies(what.repo, revision, sources, kind="datasets")
    places.setdefault("hub cache", "it has no copy")
    if found := find_copy(str(what), places, partial(_in_folder, what), sources):
        return found[1]
    return DataLocation("hub", {}, revision=_hub_commit(what, revision))


def _in_folder(what: Wanted, place: str, folder: Path) -> DataLocation | str:
    """The files of a local copy, or what it lacks."""
    if not folder.is_dir():
        return "there is no such folder"
    plain = _plain_files(what, folder)
    is_plain = any(plain.values())
    found = plain if is_plain else _files_by_readme(what, folder)
    if isinstance(found, str):
        return found
    if missing := [split for split in what.splits if not found.get(split)]:
        present = ", ".join(split for split in found if found[split])
        return f"it has {present or 'no split'} but no {', '.join(missing)}"
    return DataLocation(place.removesuffix(" cache"), found, folder, is_plain=is_plain)


def _plain_files(what: Wanted, folder: Path) -> dict[str, tuple[Path, ...]]:
    """Files in the layout `CONFIG/SPLIT-*.parquet`; empty if options ask for another reading."""
    if what.options or not what.splits:
        return {}
    configs = [what.config] if what.config else sorted({path.parent.name for path in folder.glob("*/*.parquet")})
    if len(configs) != 1:
        return {}
    dataset = DatasetId(what.repo, configs[0], "", what.splits)
    return {split: split_files(folder, dataset, split) for split in what.splits}


def _files_by_readme(what: Wanted, folder: Path) -> dict[str, tuple[Path, ...]] | str:
    """Files that the library `datasets` finds by the folder's README and file names; if it finds none, the reason."""
    with _no_network() as datasets:
        try:
            builder = datasets.load_dataset_builder(str(folder), what.config, **what.unpinned)
        except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
            return str(error).strip().partition("\n")[0]
    return _paths(builder.config.data_files or {})


def _own_files(what: Wanted) -> DataLocation:
    """The files that the task's configuration names."""
    named = what.options.get("data_files") or {}
    files = _paths(named if isinstance(named, Mapping) else {"train": named})
    if missing := [str(file) for paths in files.values() for file in paths if not file.is_file()]:
        raise DataUnavailableError(
            f"{what.repo} files that the task's configuration names are not on this machine: {', '.join(missing)}"
        )
    return DataLocation("folder", files)


def _paths(by_split: Mapping[Any, Any]) -> dict[str, tuple[Path, ...]]:
    """Paths of each split, which may have one file or several."""
    return {
        str(split): tuple(Path(file) for file in ([files] if isinstance(files, str) else files))
        for split, files in by_split.items()
    }


def _hub_commit(what: Wanted, revision: str) -> str:
    """The commit that the hub has for a revision, or for the default branch."""
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(what.repo, revision=revision or None, timeout=REACH_TIMEOUT_S).sha)
    except hub_errors() as error:
        raise unavailable(str(what), [f"hub: {what.repo} ({type(error).__name__})"]) from error


@contextlib.contextmanager
def _no_network() -> Iterator[Any]:
    """The library `datasets`, kept offline: even for local files it looks up the name of a download counter."""
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

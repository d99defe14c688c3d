"""Finds and reads data sets: in a mirror folder, then in the hub's cache, then on the hub at a pinned revision.

Only parquet files named `CONFIG/SPLIT-*.parquet` or `CONFIG/SPLIT/*.parquet` are read, and tab-separated text that a
task declares as `TabSeparated`. So the files that are fingerprinted are those that are read, and no code of a data set
ever runs. A data set in another format can be pinned at a commit of its `refs/convert/parquet` branch.

The library `datasets` is always told to stay offline; missing files are fetched with `huggingface_hub` first. Online,
it looks up the host of its download counter even for a local file, and that hangs behind some firewalls.
"""

from __future__ import annotations

import csv
import functools
import importlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ...results.record import DataIdentity, Scalar
from ..base import DataUnavailableError, Sources
from ..heavy import np
from .file_hashes import datasets_cache, hash_files, line_count

if TYPE_CHECKING:
    from datasets import Dataset

Kind = TypeVar("Kind")
REACH_TIMEOUT_S = 5.0
_SHUFFLE_SEED = 0


@dataclass(frozen=True)
class TabSeparated:
    """Files of tab-separated text without a header, in which a quote is an ordinary character.

    Attributes:
        name: Name of a split's file, in which `{split}` stands for the split.
        columns: Names of the columns.
    """

    name: str
    columns: tuple[str, ...]

    def options(self) -> dict[str, Any]:
        """Options of the reader `csv` of the library `datasets`."""
        return {
            "delimiter": "\t",
            "lineterminator": "\n",
            "column_names": list(self.columns),
            "quoting": csv.QUOTE_NONE,
            "keep_default_na": False,
        }


@dataclass(frozen=True)
class DatasetId:
    """A data set on the hub.

    Attributes:
        repo: Such as `Salesforce/wikitext`.
        config: Such as `wikitext-2-v1`.
        revision: Commit on the hub, in full; empty if only the mirror may be read.
        splits: Splits that are used.
        text: How its files are named and read; None for parquet.
    """

    repo: str
    config: str
    revision: str
    splits: tuple[str, ...] = ("train", "validation", "test")
    text: TabSeparated | None = None

    def __str__(self) -> str:
        return f"{self.repo} ({self.config})"

    @property
    def pinned(self) -> str:
        """Repository, configuration and revision, as declarations of tasks name them."""
        return f"{self.repo}/{self.config}@{self.revision}"

    def patterns(self, split: str) -> tuple[str, ...]:
        """Patterns of the files of a split, relative to the repository's folder."""
        names = (f"{split}-*.parquet", f"{split}/*.parquet") if self.text is None else (self.text.name,)
        return tuple(f"{self.config}/{name.format(split=split)}" for name in names)


@dataclass(frozen=True)
class Found:
    """Where a data set lies.

    Attributes:
        source: `mirror` or `hub`.
        files: Files of each split; empty when the hub has them and they are not downloaded yet.
    """

    source: str
    files: Mapping[str, tuple[Path, ...]]


def identify_dataset(dataset: DatasetId, sources: Sources, details: Mapping[str, Scalar] | None = None) -> DataIdentity:
    """Which data `read_split` would read: the mirror's by hash of its files, the hub's by its revision.

    Raises:
        DataUnavailableError: A split is not available.
    """
    found = find_dataset(dataset, sources)
    mirrored = found.source == "mirror"
    return DataIdentity(
        id=f"{dataset.repo}/{dataset.config}",
        revision="" if mirrored else dataset.revision,
        fingerprint=hash_files(found.files, sources) if mirrored else dataset.revision,
        source=found.source,
        splits={
            split: count_rows(files) if dataset.text is None else sum(line_count(each, sources.cache) for each in files)
            for split, files in found.files.items()
        },
        details=details or {},
    )


def read_split(dataset: DatasetId, split: str, sources: Sources) -> Dataset:
    """One split as a `datasets.Dataset`, downloaded if only the hub has it.

    Errors of a download are those of huggingface_hub.

    Raises:
        DataUnavailableError: The split is not available.
        ValueError: The data set has no such split.
    """
    if split not in dataset.splits:
        raise ValueError(f"{dataset} is used with the splits {', '.join(dataset.splits)}, not with {split!r}")
    found = find_dataset(dataset, sources)
    files = found.files or _download(dataset)
    os.environ["HF_DATASETS_OFFLINE"] = "1"
    import datasets

    datasets.disable_progress_bars()
    kind, options = ("parquet", {}) if dataset.text is None else ("csv", dataset.text.options())
    data_files = {split: [str(file) for file in files[split]]}
    cache = datasets_cache({split: files[split]}, sources)
    return datasets.load_dataset(kind, data_files=data_files, split=split, cache_dir=cache, **options)


def shuffled_places(rows: int) -> list[int]:
    """The places of a split's rows in the order in which rows are drawn, shuffled with a fixed seed."""
    places: list[int] = np.random.default_rng(_SHUFFLE_SEED).permutation(rows).tolist()
    return places


def find_dataset(dataset: DatasetId, sources: Sources) -> Found:
    """The first place that has every split.

    Raises:
        DataUnavailableError: No place has them; the message names each and what it lacks.
    """
    places = local_copies(dataset.repo, dataset.revision, sources, kind="datasets")
    pinned = bool(dataset.revision)
    advice = "" if pinned else " For the hub, also set revision=COMMIT, in full."

    def look(_: str, folder: Path) -> dict[str, tuple[Path, ...]] | str:
        return all_splits(folder, dataset)

    place, files = find_copy(str(dataset), places, look, sources, pinned=pinned, advice=advice) or ("hub", {})
    return Found(place.removesuffix(" cache"), files)


def local_copies(repo: str, revision: str, sources: Sources, kind: str) -> dict[str, Path | str]:
    """Where a repository may lie on this machine: the mirror's folder, and the hub's cache of a revision.

    `kind` is `datasets` or `models`; an empty `revision` leaves out the hub's cache. The folders may not exist. If no
    mirror was given, a text that says so takes the place of its folder.
    """
    copies = {"mirror": sources.mirror / kind / repo if sources.mirror else "none was given"}
    return {**copies, "hub cache": hub_snapshot(repo, revision, sources, kind)} if revision else copies


def find_copy(
    what: str,
    places: Mapping[str, Path | str],
    look: Callable[[str, Path], Kind | str],
    sources: Sources,
    *,
    pinned: bool = True,
    advice: str = "",
) -> tuple[str, Kind] | None:
    """The first place on this machine that has a whole copy, and what `look` finds there; None if only the hub has it.

    Args:
        what: What is looked for, as the error names it.
        places: The path of each kind of place, or the reason why there is none.
        look: Takes the kind and path of a place; returns what was found there, or a text that says what is missing.
        sources: Whether the hub may be asked.
        pinned: Whether a revision of the hub is known.
        advice: What else the user can do; the error ends with it.

    Raises:
        DataUnavailableError: No place has a copy, and the hub cannot be asked.
    """
    looked: list[str] = []
    for place, path in places.items():
        found = look(place, path) if isinstance(path, Path) else path
        if not isinstance(found, str):
            return place, found
        looked.append(f"{place} {path}: {found}" if isinstance(path, Path) else f"{place}: {found}")
    problem = hub_problem(sources) if pinned else "hub: not asked, as no revision is pinned"
    if problem is None:
        return None
    raise unavailable(what, [*looked, problem], advice)


def cache_folder() -> Path:
    """The folder for derived files, in the user's own cache."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hedgebench"


def hub_snapshot(repo: str, revision: str, sources: Sources, kind: str) -> Path:
    """The folder in which the hub's own cache keeps a revision; it may not exist."""
    _prepare_hub(sources)
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"{kind}--{repo.replace('/', '--')}" / "snapshots" / revision


def cached_revision(repo: str, sources: Sources, kind: str) -> str:
    """The commit of the default branch according to the hub's own cache; empty if the cache has none."""
    reference = hub_snapshot(repo, "", sources, kind).parent / "refs" / "main"
    return reference.read_text(encoding="ascii").strip() if reference.is_file() else ""


def hub_is_off() -> bool:
    """Whether the environment forbids asking the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def hub_problem(sources: Sources) -> str | None:
    """Why the hub cannot be asked, found out within seconds; None if the hub answers."""
    if sources.offline or hub_is_off():
        return "hub: not asked, because offline was chosen (HF_HUB_OFFLINE=1)"
    _prepare_hub(sources)
    from huggingface_hub import constants

    return _reach_problem(constants.ENDPOINT)


def hub_errors() -> tuple[type[Exception], ...]:
    """Errors that a request to the hub may raise: its refusals, time-outs and lost connections.

    Time-outs and lost connections are errors of the HTTP library below huggingface_hub, which changes between its
    versions; huggingface_hub's own error is derived from that library's.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return (*(kind for kind in HfHubHTTPError.__bases__ if issubclass(kind, Exception)), OSError)


@functools.cache
def _reach_problem(endpoint: str) -> str | None:
    """Why an address does not answer; None if it does. Each process asks once."""
    from huggingface_hub import get_session

    problems: list[str | None] = [f"hub: {endpoint} did not answer within {REACH_TIMEOUT_S:.0f} s"]

    def ask() -> None:
        try:
            get_session().head(endpoint, timeout=REACH_TIMEOUT_S)
        except Exception as error:
            problems.append(f"hub: {endpoint} is not reachable ({type(error).__name__}: {error})")
        else:
            problems.append(None)

    # A name lookup has no timeout, so it runs in a thread, whose join has one; a daemon does not delay the exit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH_TIMEOUT_S + 1)
    return problems[-1]


def unavailable(what: str, looked: Iterable[str], advice: str = "") -> DataUnavailableError:
    """The error for `what`, with every place that was looked in and what to do; `advice` is added at the end."""
    places = "\n".join(f"  - {place}" for place in looked)
    return DataUnavailableError(
        f"{what} is not available. Looked in:\n{places}\n"
        "Pass --mirror DIR (or set HEDGEBENCH_MIRROR), where DIR holds datasets/ORG/NAME and models/ORG/NAME; "
        "or connect to the hub, without HF_HUB_OFFLINE, once: later runs read its cache." + advice
    )


def _prepare_hub(sources: Sources) -> None:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if sources.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"


def split_files(folder: Path, dataset: DatasetId, split: str) -> tuple[Path, ...]:
    """The files of a split in a repository's folder, in order; empty if it has none."""
    return tuple(sorted(file for pattern in dataset.patterns(split) for file in folder.glob(pattern)))


def all_splits(folder: Path, dataset: DatasetId) -> dict[str, tuple[Path, ...]] | str:
    """The files of every split in a repository's folder, or a sentence on what it lacks."""
    files = {split: split_files(folder, dataset, split) for split in dataset.splits}
    if all(files.values()):
        return files
    if not (folder / dataset.config).is_dir():
        return f"there is no folder {dataset.config}"
    present = ", ".join(split for split in dataset.splits if files[split]) or "none of the splits"
    missing = ", ".join(split for split in dataset.splits if not files[split])
    return f"{dataset.config} has {present} but no {missing}"


def _download(dataset: DatasetId) -> dict[str, tuple[Path, ...]]:
    from huggingface_hub import snapshot_download

    patterns = [pattern for split in dataset.splits for pattern in dataset.patterns(split)]
    folder = snapshot_download(
        dataset.repo,
        repo_type="dataset",
        revision=dataset.revision,
        allow_patterns=patterns,
        etag_timeout=REACH_TIMEOUT_S,
    )
    files = all_splits(Path(folder), dataset)
    if isinstance(files, str):
        raise unavailable(str(dataset), [f"hub cache {folder}: {files}"])
    return files


def count_rows(files: Sequence[Path]) -> int:
    """Rows of parquet files, read from their footers."""
    return sum(open_parquet(file).metadata.num_rows for file in files)


def open_parquet(file: Path) -> Any:
    """A parquet file as pyarrow opens it, with its footer read."""
    parquet: Any = importlib.import_module("pyarrow.parquet")
    return parquet.ParquetFile(file)

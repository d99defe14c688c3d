"""Rows of a data set that the user of a task names by its settings: local files, or a data set in the hub's layout.

Both have the roles `train`, `validation` and `test`, of which a model that is not trained needs the last alone. Rows
are Arrow tables. A protocol that reads the layout of the hub gets the rows through `in_hub_layout`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...results.atomic import replacing
from ...results.names import UnknownNameError, unknown_name
from ...results.record import DataIdentity, Scalar
from ..base import DataUnavailableError, Sources
from .file_hashes import hash_files
from .local_files import TEXTS, are_parquet, find_splits, read_rows
from .named import check_names
from .sources import DatasetId, count_rows, find_dataset, hub_errors, hub_problem, local_copies, read_split

if TYPE_CHECKING:
    from pyarrow import Schema, Table

LOCAL = ("file", "folder")
"""Sources of rows in a local file or folder."""

_CONFIG = "default"
_VERSION = 1
"""Raised when the tables that tasks make of the same rows change."""
_SHARD = re.compile(r"-\d+(-of-\d+)?(-\w+)?$")


@dataclass(frozen=True)
class OwnData:
    """The name of a data set, and of its splits.

    Attributes:
        file: A local file or folder; see `local_files.py`.
        dataset: A repository in the layout of the hub, `ORG/NAME`.
        config: Folder of the repository that holds the parquet files; empty if there is only one.
        revision: Commit on the hub, in full; empty if only the mirror may be read.
        train: Split that is trained on; None for none.
        validation: Split that training is validated on; None for none.
        test: Split that models are tested on.

    Raises:
        ValueError: Neither a file nor a data set is named, or both are; a name is malformed; one split has two roles.
    """

    file: str = ""
    dataset: str = ""
    config: str = ""
    revision: str = ""
    train: str | None = "train"
    validation: str | None = "validation"
    test: str = "test"

    def __post_init__(self) -> None:
        if bool(self.file) == bool(self.dataset):
            given = f"file is {self.file!r} and dataset is {self.dataset!r}" if self.file else "no data are named"
            raise ValueError(f"{given}; set one of file=PATH and dataset=ORG/NAME")
        if self.dataset:
            check_names(self.dataset, self.revision, "nyu-mll/glue")
        elif self.config or self.revision:
            raise ValueError("config and revision are of data sets of the hub; a file has neither")
        if self.test in (self.train, self.validation):
            raise ValueError(
                f"test_split is {self.test!r}, and so is train_split or validation_split; what is reported must not "
                "choose or train the model"
            )

    @property
    def splits(self) -> dict[str, str]:
        """The name of each role's split."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {role: name for role, name in named.items() if name}

    def local_files(self) -> Mapping[str, tuple[Path, ...]]:
        """The files of each role in `file`; empty for a data set of the hub.

        Raises:
            ValueError: They do not exist.
        """
        return find_splits(self._path, self.splits) if self.file else {}

    def find(self, sources: Sources) -> OwnRows:
        """The rows; they are downloaded if only the hub has them, so that they can be checked before anything runs.

        Raises:
            DataUnavailableError: A split is not available, or its download fails.
            ValueError: The file, the data set, its configuration or its test split does not exist.
        """
        if self.file:
            return OwnRows(self._path.name, LOCAL[self._path.is_dir()], self.splits, self.local_files())
        dataset = self._dataset(sources)
        found = find_dataset(dataset, sources)
        if not found.files:
            try:
                read_split(dataset, self.test, sources)
            except hub_errors() as error:
                raise DataUnavailableError(f"{dataset} cannot be downloaded: {error}") from error
            found = find_dataset(dataset, sources)
        files = {role: found.files[name] for role, name in self.splits.items() if name in found.files}
        return OwnRows(f"{self.dataset}/{dataset.config}", found.source, self.splits, files, dataset)

    @property
    def _path(self) -> Path:
        return Path(self.file).expanduser().resolve()

    def _dataset(self, sources: Sources) -> DatasetId:
        """The data set, with those of its splits that a copy on this machine has, or all if only the hub has it."""
        copies = local_copies(self.dataset, self.revision, sources, kind="datasets").values()
        folder = next((copy for copy in copies if isinstance(copy, Path) and copy.is_dir()), None)
        if folder is None:
            if self.revision and hub_problem(sources) is None:
                return DatasetId(self.dataset, self.config or _CONFIG, self.revision, tuple(self.splits.values()))
            raise _unknown_dataset(self.dataset, self.revision, sources)
        present = {each.name: _splits_in(each) for each in sorted(folder.iterdir()) if each.is_dir()}
        configs = [name for name, splits in present.items() if splits]
        if not self.config and len(configs) > 1:
            raise ValueError(f"{self.dataset} has several configurations; set config to one of {', '.join(configs)}")
        if not configs or self.config not in ("", *configs):
            raise unknown_name(f"configuration of {self.dataset}, given as config,", self.config, configs)
        config = self.config or configs[0]
        if self.test not in present[config]:
            where = f"split of {self.dataset} ({config}), given as test_split,"
            raise unknown_name(where, self.test, present[config])
        used = tuple(name for name in self.splits.values() if name in present[config])
        return DatasetId(self.dataset, config, self.revision, used)


@dataclass(frozen=True)
class OwnRows:
    """The rows of a data set in the roles that it has.

    Attributes:
        id: Name of the file or folder, or repository and configuration.
        source: `file`, `folder`, `mirror` or `hub`.
        names: The name of each role's split.
        files: The files of each role.
        dataset: The data set, if the rows are of one.
    """

    id: str
    source: str
    names: Mapping[str, str]
    files: Mapping[str, tuple[Path, ...]]
    dataset: DatasetId | None = None

    @property
    def are_texts(self) -> bool:
        """Whether each row is a whole file of text."""
        return all(file.suffix.lower() in TEXTS for files in self.files.values() for file in files)

    def only(self, *roles: str) -> OwnRows:
        """The rows of those roles that there are."""
        return replace(self, files={role: files for role, files in self.files.items() if role in roles})

    def read(self, role: str, *columns: str) -> Table:
        """Some columns of a role.

        Raises:
            ValueError: A file cannot be read.
        """
        table = self._parsed.get(role)
        return read_rows(self.files[role], columns) if table is None else table.select(list(columns))

    def columns(self, role: str) -> list[str]:
        """The names of a role's columns.

        Raises:
            ValueError: A file cannot be read.
        """
        names: list[str] = self._schema(role).names
        return names

    def check_column(self, role: str, setting: str, name: str) -> str:
        """The type of a column, as Arrow writes it.

        Raises:
            UnknownNameError: There is no such column.
            ValueError: A file cannot be read.
        """
        schema = self._schema(role)
        if name not in schema.names:
            raise unknown_name(f"column of {self.where(role)}, given as {setting},", name, schema.names)
        return str(schema.field(name).type)

    def check_text(self, role: str, setting: str, name: str) -> None:
        """Refuses a column that does not exist, or that holds no text.

        Raises:
            ValueError: As above, or a file cannot be read.
        """
        kind = self.check_column(role, setting, name)
        if kind not in ("string", "large_string", "string_view"):
            raise ValueError(
                f"{setting} is the column {name!r} of {self.where(role)}, which holds {kind}; allowed: text"
            )

    def where(self, role: str) -> str:
        """A role's rows in messages."""
        return f"{self.id} in split {self.names[role]}" if len(self.files) > 1 or self.dataset else self.id

    def identity(self, sources: Sources, **details: Scalar) -> DataIdentity:
        """The identity of the rows of all roles, read in the way that `details` tell.

        The fingerprint has the content of the files, or the revision on the hub, and the details; places do not count.
        """
        is_pinned = self.source == "hub" and self.dataset is not None
        revision = self.dataset.revision if self.dataset and is_pinned else ""
        content = f"{self.dataset} {revision} {dict(self.names)}" if is_pinned else hash_files(self.files, sources)
        told = {name: value for name, value in details.items() if value != ""}
        fingerprint = hashlib.sha256(json.dumps([content, told], sort_keys=True).encode()).hexdigest()
        rows = {
            role: len(self._parsed[role]) if role in self._parsed else count_rows(files)
            for role, files in self.files.items()
        }
        return DataIdentity(self.id, revision, fingerprint, self.source, rows, told)

    @cached_property
    def _parsed(self) -> Mapping[str, Table]:
        """The rows of the roles that are not in parquet files; each file is parsed once."""
        return {role: read_rows(files) for role, files in self.files.items() if not are_parquet(files)}

    def _schema(self, role: str) -> Schema:
        if role in self._parsed:
            return self._parsed[role].schema
        parquet: Any = importlib.import_module("pyarrow.parquet")
        schema: Schema = parquet.read_schema(self.files[role][0])
        return schema


def in_hub_layout(
    rows: OwnRows, own: DataIdentity, tables: Mapping[str, Callable[[], Table]], sources: Sources
) -> tuple[DatasetId, Sources]:
    """Keeps tables as a data set in the layout of the hub, and gives its name and the sources that have it.

    The name of the repository is an absolute path, which stands in place of one below the mirror.

    Args:
        rows: The rows that the tables are made of.
        own: Their identity before they were read; tables of equal fingerprints are written once.
        tables: Makes the rows of each split.
        sources: Where to keep them.

    Raises:
        DataUnavailableError: The rows changed while they were read.
    """
    parquet: Any = importlib.import_module("pyarrow.parquet")
    folder = sources.cache.resolve() / "own_data" / f"{own.fingerprint[:16]}-{_VERSION}"
    for split, make in tables.items():
        file = folder / _CONFIG / f"{split}-00000-of-00001.parquet"
        if not file.is_file():
            with replacing(file) as handle:
                parquet.write_table(make(), handle)
                if rows.identity(sources, **own.details).fingerprint != own.fingerprint:
                    raise DataUnavailableError(f"{own.id} changed while it was read; start the run again")
    dataset = DatasetId(str(folder), _CONFIG, "", tuple(tables))
    return dataset, replace(sources, mirror=sources.mirror or sources.cache)


def _splits_in(folder: Path) -> list[str]:
    """The splits whose parquet files a folder has."""
    files = {_SHARD.sub("", file.stem) for file in folder.glob("*.parquet")}
    return sorted(files | {file.parent.name for file in folder.glob("*/*.parquet")})


def nearest_datasets(repo: str, sources: Sources) -> str:
    """A hint at the data sets of the mirror whose names are nearest to one that it lacks; empty if it has it."""
    present = _mirrored(sources)
    return "" if not present or repo in present else f"\n{unknown_name('data set of the mirror', repo, present)}"


def _mirrored(sources: Sources) -> list[str]:
    """The data sets in the mirror."""
    folder = sources.mirror / "datasets" if sources.mirror else None
    return sorted(each.relative_to(folder).as_posix() for each in folder.glob("*/*")) if folder else []


def _unknown_dataset(repo: str, revision: str, sources: Sources) -> UnknownNameError:
    """The error for a data set that is nowhere, with the nearest of those in the mirror."""
    hub = hub_problem(sources) if revision else "hub: not asked; set revision=COMMIT, in full, to read it there"
    if sources.mirror is None:
        return UnknownNameError(
            f"data set {repo} was looked for in no mirror, as none was given with --mirror DIR; {hub}"
        )
    where = f"data set in the mirror {sources.mirror}, given as dataset,"
    return UnknownNameError(f"{unknown_name(where, repo, _mirrored(sources))}; {hub}")

"""The folder of one run: its manifest, one JSON file per cell, predictions, and the report computed from them.

    manifest.json                      configuration, plan, environment
    cells/CELL.json                    one Record each
    samples/CELL.jsonl                 predictions, kept apart from scores; read as CELL.jsonl.gz too
    leaderboard.csv, leaderboard.md, leaderboard.json, report.html, plots/

A file is either complete or absent: it is written under a temporary name, synced and renamed. Everything is written,
moved and removed through `RunFolder`, which follows no symbolic link.
"""

from __future__ import annotations

import fcntl
import functools
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import IO, Any, Self

from .foreign import ForeignJsonError, convert, format_json, parse_json
from .migrations import NewerVersionError
from .record import Record, Status, from_json, record_text
from .run_folder import RunFolder
from .run_folder import StoreError as StoreError

DONE_STATUSES: frozenset[Status] = frozenset({"ok", "oom", "unsupported"})
"""Statuses of cells that are not run again. Cells that ended as `error` or `timeout` are: they may pass next time."""

_UNREADABLE = (OSError, EOFError, zlib.error, ForeignJsonError)
"""Errors of reading a file of predictions that is damaged."""

_CELL_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_LONGEST_ID = 200


@dataclass(frozen=True)
class CorruptCell:
    """A file that cannot be read: a record, whose cell counts as missing, or the predictions of a cell."""

    path: Path
    reason: str


@dataclass(frozen=True)
class LoadedRecords:
    """Every record of a run in a fixed order, and the files that hold none."""

    records: tuple[Record, ...]
    corrupt: tuple[CorruptCell, ...]


@dataclass(frozen=True)
class RunStore:
    """One run's folder.

    Attributes:
        root: The folder; it need not exist before `create`.
    """

    root: Path

    @classmethod
    def of_run(cls, folder: Path) -> Self:
        """The store of a run that there is.

        Raises:
            StoreError: The folder is not a run's.
        """
        store = cls(folder)
        if not store.cells.is_dir():
            raise StoreError(f"{str(folder)!r} is not a run's folder: it has no folder cells/")
        return store

    @property
    def folder(self) -> RunFolder:
        """The folder, to write, move and remove what lies in it."""
        return RunFolder(self.root)

    @property
    def cells(self) -> Path:
        """Folder of the records."""
        return self.root / "cells"

    @property
    def samples(self) -> Path:
        """Folder of the predictions."""
        return self.root / "samples"

    @property
    def manifest(self) -> Path:
        """The manifest's file."""
        return self.root / "manifest.json"

    def create(self) -> None:
        """Makes the folders; an existing run is kept.

        Raises:
            StoreError: The folder cannot be made or written, or a symbolic link in it leads elsewhere.
        """
        self.folder.refuse_links()
        try:
            for folder in (self.cells, self.samples, self.root / "plots"):
                self.folder.make_writable(folder)
        except OSError as error:
            raise StoreError(
                f"cannot write results to {self.root}: {error.strerror or error} ({error.filename}); "
                "choose another folder with --output DIR"
            ) from error

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps every other run out of this folder until the block or the process ends.

        Raises:
            StoreError: Another run has the folder.
        """
        with self._lock_file() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                raise StoreError(
                    f"process {lock.read().strip() or 'unknown'} is running in {self.root}; "
                    "wait for it, or choose another folder with --output DIR"
                ) from error
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            yield

    def write_record(self, record: Record) -> None:
        """Writes a cell's record in place of any earlier one.

        Raises:
            StoreError: The cell's id cannot be a file name, or the file cannot be written.
        """
        self.write_text(self.cells / f"{check_id(record.cell_id)}.json", record_text(record) + "\n")

    def records(self) -> LoadedRecords:
        """Every record, ordered by `record_order`, and every corrupt file.

        Raises:
            StoreError: A newer release wrote a record. It is not corrupt, and its cell must not be measured again.
        """
        loaded = [_load(path) for path in sorted(self.cells.glob("*.json"))]
        records = sorted((item for item in loaded if isinstance(item, Record)), key=record_order)
        return LoadedRecords(tuple(records), tuple(item for item in loaded if isinstance(item, CorruptCell)))

    def set_aside(self, corrupt: CorruptCell) -> Path:
        """Renames a corrupt file to `*.corrupt`, so that the cell can be measured again; returns its new name."""
        return self.folder.set_aside(corrupt.path)

    def write_samples(self, cell_id: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes a cell's predictions, one JSON object a line.

        Non-finite numbers are written as `NaN`, `Infinity` and `-Infinity`, as Python's json does. The strings that
        records use instead would be read back as texts, as a prediction may be the text `nan`.

        Raises:
            StoreError: The cell's id cannot be a file name, or the file cannot be written.
        """
        with self.folder.writing(self._samples_path(cell_id)) as file:
            file.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)

    def read_samples(self, cell_id: str) -> Iterator[dict[str, Any]]:
        """A cell's predictions, one at a time.

        Raises:
            StoreError: The cell has no predictions, or a line is no JSON object.
        """
        path = self._kept_samples_path(cell_id)
        try:
            yield from _rows(path)
        except _UNREADABLE as error:
            raise StoreError(f"cannot read the samples of cell {cell_id} from {path}: {error}") from error

    def kept_samples(self, cell_id: str) -> Iterable[dict[str, Any]]:
        """A cell's predictions, as `read_samples` gives them; none if the run was kept without them.

        None either if they cannot be read: `damaged_samples` names such files.
        """
        path = self._kept_samples_path(cell_id)
        return self.read_samples(cell_id) if path.is_file() and not _damage(path, *_version(path)) else ()

    def damaged_samples(self, records: Iterable[Record]) -> tuple[CorruptCell, ...]:
        """The files of predictions of these records that cannot be read, each with the reason."""
        paths = (self._kept_samples_path(record.cell_id) for record in records)
        found = ((path, _damage(path, *_version(path))) for path in paths if os.path.lexists(path))
        return tuple(CorruptCell(path, reason) for path, reason in found if reason)

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Writes the run's configuration, plan and environment.

        Raises:
            StoreError: The file cannot be written.
        """
        self.write_text(self.manifest, format_json(manifest, indent=2) + "\n")

    def write_text(self, path: Path, text: str) -> None:
        """Writes a text file of the run; the file is complete or absent.

        Raises:
            StoreError: The file cannot be written.
        """
        self.folder.write(path, text.encode())

    def _lock_file(self) -> IO[str]:
        """The file that runs lock, which is no link: to write the number of a process would change its target.

        Raises:
            StoreError: It cannot be opened.
        """
        path = self.root / ".lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            kind = "a symbolic link" if path.is_symlink() else error.strerror
            raise StoreError(f"cannot lock {path}: {kind}; take it away if no run is using {self.root}") from error
        return os.fdopen(descriptor, "a+", encoding="utf-8")

    def _samples_path(self, cell_id: str) -> Path:
        return self.samples / f"{check_id(cell_id)}.jsonl"

    def _kept_samples_path(self, cell_id: str) -> Path:
        """The file as it was written, or, if there is none, as it was compressed since, to be published."""
        path = self._samples_path(cell_id)
        compressed = path.with_name(f"{path.name}.gz")
        return compressed if compressed.is_file() and not path.is_file() else path


record_order = attrgetter("model", "backbone", "task", "recipe", "scale", "seed", "cell_id")
"""The key by which records are sorted."""


def check_id(cell_id: str) -> str:
    """Returns a cell's id, which names its files.

    Raises:
        StoreError: It cannot be a file name.
    """
    if not _CELL_ID.fullmatch(cell_id) or len(cell_id) > _LONGEST_ID:
        raise StoreError(
            f"cell id {cell_id[:40]!r} cannot be a file name; use up to {_LONGEST_ID} letters, digits, '-', '_' and '.'"
        )
    return cell_id


def _load(path: Path) -> Record | CorruptCell:
    try:
        record = from_json(parse_json(path.read_bytes()))
    except NewerVersionError as error:
        raise StoreError(f"{path}: {error}") from error
    except (OSError, ForeignJsonError) as error:
        return CorruptCell(path, str(error))
    if record.cell_id != path.stem:
        return CorruptCell(path, f"the file is named {path.stem} but holds cell {record.cell_id}")
    return record


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield convert(parse_json(line), dict[str, Any], f"line {number}")


def _version(path: Path) -> tuple[int, int]:
    """What tells a file's content from an earlier one's."""
    status = path.lstat()
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=4096)
def _damage(path: Path, size: int, modified_ns: int) -> str:
    """Why a file of predictions cannot be read; empty if it can. Each version of a file is read once."""
    del size, modified_ns
    try:
        for _ in _rows(path):
            pass
    except _UNREADABLE as error:
        return str(error)
    return ""

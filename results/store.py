"""The folder of one run: its manifest, one JSON file per cell, samples, and what is computed from them.

    manifest.json                      configuration, plan, environment
    cells/CELL.json                    one Record each
    samples/CELL.jsonl                 predictions, kept apart from scores
    leaderboard.csv, leaderboard.md, leaderboard.json, report.html, plots/

A file is either wholly there or not at all: it is written under a temporary name, synced and renamed.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .atomic import replacing
from .migrations import NewerVersionError
from .record import InvalidRecordError, Record, Status, from_json, to_json

DONE_STATUSES: frozenset[Status] = frozenset({"ok", "oom", "unsupported"})
"""Statuses that count as a result. `error` and `timeout` are tried again: both may pass on another day."""

_CELL_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class StoreError(Exception):
    """A run's folder cannot be written, or does not hold what was asked for."""


@dataclass(frozen=True)
class CorruptCell:
    """A cell's file that cannot be read as a record; the cell counts as missing."""

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

    @property
    def cells(self) -> Path:
        """Folder of the records."""
        return self.root / "cells"

    @property
    def samples(self) -> Path:
        """Folder of the predictions."""
        return self.root / "samples"

    @property
    def plots(self) -> Path:
        """Folder of the plots."""
        return self.root / "plots"

    @property
    def manifest(self) -> Path:
        """The manifest's file."""
        return self.root / "manifest.json"

    def create(self) -> None:
        """Makes the folders; an existing run is kept as it is.

        Raises:
            StoreError: The folder cannot be made or written.
        """
        try:
            for folder in (self.cells, self.samples, self.plots):
                folder.mkdir(parents=True, exist_ok=True)
                probe = folder / f".probe.{os.getpid()}.tmp"
                probe.write_bytes(b"")
                probe.unlink()
        except OSError as error:
            raise StoreError(
                f"cannot write results to {self.root}: {error.strerror or error} ({error.filename}); "
                "choose another folder with --output DIR"
            ) from error

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps every other run out of this folder until the block ends, or the process does.

        Raises:
            StoreError: Another run has the folder.
        """
        with (self.root / ".lock").open("a+", encoding="utf-8") as lock:
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

    def write_record(self, record: Record) -> Path:
        """Writes a cell's record in place of any earlier one; returns its file.

        Raises:
            StoreError: The cell's id cannot be a file name, or the file cannot be written.
        """
        path = self._cell_path(record.cell_id)
        self.write_text(path, json.dumps(to_json(record), ensure_ascii=False, allow_nan=False) + "\n")
        return path

    def read_record(self, cell_id: str) -> Record:
        """A cell's record.

        Raises:
            StoreError: There is no such cell, or its file is corrupt.
        """
        path = self._cell_path(cell_id)
        loaded = _load(path)
        if isinstance(loaded, CorruptCell):
            raise StoreError(f"{path}: {loaded.reason}")
        return loaded

    def records(self) -> LoadedRecords:
        """Every record, ordered by model, backbone, task, recipe, scale, seed and cell, and every corrupt file.

        Raises:
            StoreError: A newer release wrote a record. It is not corrupt, and must not be set aside and measured again.
        """
        loaded = [_load(path) for path in sorted(self.cells.glob("*.json"))]
        records = [item for item in loaded if isinstance(item, Record)]
        corrupt = tuple(item for item in loaded if isinstance(item, CorruptCell))
        return LoadedRecords(tuple(sorted(records, key=record_order)), corrupt)

    def finished_cells(self) -> frozenset[str]:
        """Ids of the cells that have a result and are not run again (see `DONE_STATUSES`)."""
        return frozenset(r.cell_id for r in self.records().records if r.status in DONE_STATUSES)

    def set_aside(self, corrupt: CorruptCell) -> Path:
        """Renames a corrupt file to `*.corrupt`, so that the cell can be measured again; returns its new name."""
        target = corrupt.path.with_name(corrupt.path.name + ".corrupt")
        corrupt.path.replace(target)
        return target

    def write_samples(self, cell_id: str, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Writes a cell's predictions, one JSON object a line; returns the file.

        Non-finite numbers become the strings `nan`, `inf` and `-inf`, as in records.

        Raises:
            StoreError: The cell's id cannot be a file name, or the file cannot be written.
        """
        path = self.samples / f"{_checked_id(cell_id)}.jsonl"
        with _replacing(path) as file:
            for row in rows:
                file.write(json.dumps(_finite(row), ensure_ascii=False, allow_nan=False).encode() + b"\n")
        return path

    def read_samples(self, cell_id: str) -> Iterator[dict[str, Any]]:
        """A cell's predictions, one at a time.

        Raises:
            StoreError: The cell has no predictions, or a line is not JSON.
        """
        path = self.samples / f"{_checked_id(cell_id)}.jsonl"
        try:
            with path.open(encoding="utf-8") as file:
                for line in file:
                    yield json.loads(line)
        except (OSError, ValueError) as error:
            raise StoreError(f"cannot read the samples of cell {cell_id} from {path}: {error}") from error

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Writes what the run is: configuration, plan, environment.

        Raises:
            StoreError: The file cannot be written.
        """
        self.write_text(self.manifest, json.dumps(_finite(manifest), ensure_ascii=False, indent=2) + "\n")

    def read_manifest(self) -> dict[str, Any]:
        """What `write_manifest` wrote.

        Raises:
            StoreError: There is no manifest, or it is not a JSON object.
        """
        try:
            manifest = json.loads(self.manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StoreError(f"cannot read {self.manifest}: {error}; is {self.root} a run's folder?") from error
        if not isinstance(manifest, dict):
            raise StoreError(f"{self.manifest} holds {type(manifest).__name__}, not a JSON object")
        return manifest

    def write_text(self, path: Path, text: str) -> None:
        """Writes a text file of the run, wholly or not at all.

        Raises:
            StoreError: The file cannot be written.
        """
        with _replacing(path) as file:
            file.write(text.encode())

    def _cell_path(self, cell_id: str) -> Path:
        return self.cells / f"{_checked_id(cell_id)}.json"


def record_order(record: Record) -> tuple[str, str, str, str, str, int, str]:
    """The order in which records are kept."""
    return (
        record.model,
        record.backbone,
        record.task,
        record.recipe,
        record.scale,
        record.seed,
        record.cell_id,
    )


def _checked_id(cell_id: str) -> str:
    if not _CELL_ID.fullmatch(cell_id):
        raise StoreError(f"cell id {cell_id!r} cannot be a file name; use letters, digits, '-', '_' and '.'")
    return cell_id


def _load(path: Path) -> Record | CorruptCell:
    try:
        record = from_json(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return CorruptCell(path, "there is no such file")
    except NewerVersionError as error:
        raise StoreError(f"{path}: {error}") from error
    except (OSError, ValueError, InvalidRecordError) as error:
        return CorruptCell(path, f"{type(error).__name__}: {error}")
    if record.cell_id != path.stem:
        return CorruptCell(path, f"the file is named {path.stem} but holds cell {record.cell_id}")
    return record


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """As `replacing`, with an error that names the file."""
    try:
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error


def _finite(value: Any) -> Any:
    """`value` with every non-finite number as a string, which JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value

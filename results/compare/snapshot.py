"""One side of a comparison: a run's folder, or a baseline file made from one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..foreign import ForeignJsonError, convert, parse_json
from ..migrations import NewerVersionError
from ..record import Record, from_json
from ..stats.scores import Rows
from ..store import RunStore, StoreError

BASELINE_FORMAT = "hedgebench baseline"
BASELINE_VERSION = 1


@dataclass(frozen=True)
class Snapshot:
    """Records, and the predictions that were kept with them.

    Attributes:
        name: Path of the folder or file.
        records: One for each cell.
        samples: Predictions by cell id; a cell without predictions is absent.
        notes: Remarks for the reader, such as predictions that could not be read.
    """

    name: str
    records: tuple[Record, ...]
    samples: Mapping[str, Rows] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BaselineCell:
    """A cell in a baseline file.

    Attributes:
        record: JSON of its record, of any schema version.
        samples: Columns of its predictions; empty where none are kept.
    """

    record: Mapping[str, Any]
    samples: Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Baseline:
    """The content of a baseline file.

    Attributes:
        format: `BASELINE_FORMAT`.
        version: `BASELINE_VERSION`.
        run: Name of the run.
        cells: The cells that have a result.
    """

    format: str
    version: int
    run: str
    cells: tuple[BaselineCell, ...]


def read_snapshot(path: Path) -> Snapshot:
    """A run's folder or a baseline file.

    Raises:
        StoreError: It is neither, or cannot be read; the message names the file.
    """
    if path.is_dir():
        return _read_run(path)
    if path.is_file():
        return _read_baseline(path)
    raise StoreError(f"{str(path)!r} does not exist; give a run's folder or a baseline file")


def _read_run(folder: Path) -> Snapshot:
    store = RunStore.of_run(folder)
    loaded = store.records()
    if loaded.corrupt:
        first = loaded.corrupt[0]
        raise StoreError(f"{first.path}: {first.reason}; run the cell again, or take the file away")
    kept = {record.cell_id: list(store.kept_samples(record.cell_id)) for record in loaded.records}
    samples = {cell_id: rows for cell_id, rows in kept.items() if rows}
    damaged = store.damaged_samples(loaded.records)
    notes = (f"cannot read the samples in {each.path}: {each.reason}" for each in damaged)
    return Snapshot(str(folder), loaded.records, samples, tuple(notes))


def _read_baseline(path: Path) -> Snapshot:
    try:
        data = parse_json(path.read_bytes())
    except (OSError, ForeignJsonError) as error:
        raise StoreError(f"cannot read {path}: {error}") from error
    if not isinstance(data, dict) or data.get("format") != BASELINE_FORMAT:
        raise StoreError(f"{path} is not a baseline; make one with: bench baseline RUN_DIR -o {path}")
    if data.get("version") != BASELINE_VERSION:
        raise StoreError(f"{path} has version {data.get('version')!r}; this release reads {BASELINE_VERSION}")
    try:
        cells = convert(data, Baseline, "baseline").cells
        records = tuple(from_json(cell.record) for cell in cells)
        samples = {r.cell_id: _rows(cell.samples) for r, cell in zip(records, cells, strict=True) if cell.samples}
    except NewerVersionError as error:
        raise StoreError(f"{path}: {error}") from error
    except ValueError as error:
        raise StoreError(f"{path} is damaged: {error}") from error
    return Snapshot(str(path), records, samples)


def _rows(columns: Mapping[str, tuple[Any, ...]]) -> Rows:
    """Rows out of columns of one length."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

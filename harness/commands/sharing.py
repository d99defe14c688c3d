"""`bench export` and `bench import`: write runs for other programs and trackers, and read their results."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ...results.exchange.export import EXPORTS, export, read_parquet
from ...results.exchange.lm_eval_import import is_lm_eval, lm_eval_records
from ...results.exchange.trackers import TRACKERS, open_tracker, send_all
from ...results.foreign import parse_json
from ...results.names import UsageError
from ...results.record import SCHEMA_VERSION, Record, from_json, record_text
from ...results.report.write import write_report
from ...results.store import RunStore, check_id
from ..running.tracking import describe, require_trackers
from ..task_spec import task_texts
from .reporting import load_runs


def export_runs(folders: Sequence[Path], format: str, output: Path | None) -> list[str]:
    """Writes the records of several runs for other programs, or sends them to a tracker; returns messages for the user.

    Args:
        folders: The runs.
        format: Name of an export or of a tracker.
        output: File or folder to write; None for a tracker, whose own environment variables say where it writes.

    Raises:
        UsageError: A folder holds no run, a file cannot be written, or a tracker is not installed or fails.
        UnknownNameError: The format is unknown.
    """
    if format in TRACKERS:
        if output is not None:
            raise UsageError(f"--format {format} takes no --output: settings of {format} itself say where it goes")
        return _send(folders, format)
    if output is None and format in EXPORTS:
        raise UsageError(f"--format {format} needs --output")
    records, messages = load_runs(folders)
    try:
        export(records, format, output or Path())
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror or error}") from error
    return messages


def _send(folders: Sequence[Path], name: str) -> list[str]:
    require_trackers([name])
    told = []
    for folder in folders:
        records, messages = load_runs([folder])
        try:
            place = send_all(open_tracker(name, folder), folder, records)
        except Exception as error:  # whatever a tracker's package raises
            raise UsageError(f"{name} failed with {folder}: {describe(error)}") from error
        told += [*messages, f"{name}: {place}"]
    return told


def import_files(files: Sequence[Path], folder: Path) -> list[str]:
    """Makes a run from files: lm-eval's results, records of any schema version so far, or our Parquet.

    If the folder holds a run already, the records are added to it.

    Raises:
        UsageError: A file cannot be read, or is of another kind; nothing is written then.
        StoreError: The folder cannot be written, or another run has it.
    """
    name = folder.resolve().name
    records = {record.cell_id: record for file in files for record in read_records(file, name)}
    hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    store = RunStore(folder)
    store.create()
    with store.held():
        for record in records.values():
            store.write_record(record)
        if not store.manifest.exists():
            store.write_manifest({"schema_version": SCHEMA_VERSION, "imported": hashes})
        page = write_report(store, task_texts(record.task for record in records.values()))
    return [f"{len(records)} records from {len(files)} files; report: {page}"]


def read_records(file: Path, run_id: str) -> list[Record]:
    """The records of a file, each of which can be written and read again.

    Raises:
        UsageError: The file cannot be read, or is of another kind.
    """
    try:
        if file.suffix == ".parquet":
            records = read_parquet(file)
        else:
            data = parse_json(file.read_bytes())
            records = lm_eval_records(data, run_id, file.name) if is_lm_eval(data) else [from_json(data)]
        for record in records:
            check_id(record.cell_id)
            from_json(parse_json(record_text(record)))
        return records
    except OSError as error:  # pyarrow's errors are of this kind or a ValueError
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"cannot import {file}: {error}") from error

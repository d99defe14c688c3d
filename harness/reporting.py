"""Loading runs for `bench report`, and recomputing their metrics from the predictions they kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..results.leaderboard import merge_runs
from ..results.record import Record
from ..results.report import write_report
from ..results.store import RunStore
from .config import UsageError
from .task_spec import task_of


def load_runs(folders: Sequence[Path]) -> tuple[list[Record], list[str]]:
    """Records of several runs, the later run's where two have the same cell, and what there is to tell about them.

    Raises:
        UsageError: A folder holds no run.
    """
    runs, messages = [], []
    for folder in folders:
        loaded = _store(folder).records()
        runs.append((folder.resolve().name, loaded.records))
        messages += [f"corrupt cell file left out: {corrupt.path}: {corrupt.reason}" for corrupt in loaded.corrupt]
    records, told = merge_runs(runs)
    return list(records), messages + list(told)


def rescore_runs(folders: Sequence[Path]) -> None:
    """Recomputes the metrics of every cell with stored predictions, without any model, and rewrites the reports.

    Metrics that do not come from predictions, such as parameter counts, stay as they are.

    Raises:
        UsageError: A folder holds no run, or a task no longer exists.
        StoreError: Predictions cannot be read, or records not written.
    """
    for folder in folders:
        store = _store(folder)
        for record in store.records().records:
            if record.status == "ok":
                store.write_record(rescore(record, store))
        write_report(store)


def rescore(record: Record, store: RunStore) -> Record:
    """The record with metrics recomputed from its predictions."""
    task = task_of(record.task)
    settings = {key.removeprefix("task."): v for key, v in record.settings.items() if key.startswith("task.")}
    fresh = task.score(list(store.read_samples(record.cell_id)), settings)  # type: ignore[arg-type]
    names = {metric.name for metric in fresh}
    kept = [metric for metric in record.metrics if metric.name not in names]
    return replace(record, metrics=(*fresh, *kept))


def _store(folder: Path) -> RunStore:
    store = RunStore(folder)
    if not store.cells.is_dir():
        raise UsageError(f"{str(folder)!r} is not a run's folder: it has no folder cells/")
    return store

"""`bench report`: loads and renders runs, and recomputes their metrics from stored predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...results.names import UsageError
from ...results.record import WITHOUT_BRANCH, Record
from ...results.report.html import ReportContent
from ...results.report.write import render, render_html, sample_previews
from ...results.stats.evidence import Samples as Predictions
from ...results.stats.evidence import Scores, kept_scores
from ...results.stats.scores import split_branch
from ...results.store import LoadedRecords, RunStore
from ...results.tables.aggregate import group_seeds, merge_runs
from ...results.tables.notes import apart_notes
from ...results.terminal.details import print_leaderboard
from ...results.terminal.screen import print_summary
from ..running.runner import report_page
from ..task_spec import task_of, task_texts

if TYPE_CHECKING:
    from rich.console import Console

FORMATS_WITH_NOTES = ("md", "html")
"""Formats whose text includes the notes on results that are not averaged or compared."""

MOST_NAMES = 3
"""Largest number of runs that a report's title names."""


def load_runs(folders: Sequence[Path]) -> tuple[list[Record], list[str]]:
    """Records of several runs and messages for the user; of a cell that two runs have, the later run's record.

    Raises:
        StoreError: A folder holds no run.
    """
    return _merged([(folder, RunStore.of_run(folder).records()) for folder in folders])


def load_content(folders: Sequence[Path], version: str = "") -> ReportContent:
    """Everything that a report of several runs shows.

    Args:
        folders: The runs' folders; of a cell that several have, the later one's record is shown.
        version: A server's name for this state of the folders; empty for a page that follows no run.

    Raises:
        StoreError: A folder holds no run.
    """
    loaded = [(folder, RunStore.of_run(folder).records()) for folder in folders]
    records, messages = _merged(loaded)
    samples: dict[str, list[dict[str, str]]] = {}
    for folder, run in loaded:
        own = sample_previews(RunStore.of_run(folder), run.records)
        samples |= {record.cell_id: own.get(record.cell_id, []) for record in run.records}
    names = [folder.resolve().name for folder in folders]
    title = ", ".join(names) if len(names) <= MOST_NAMES else f"{len(names)} runs"
    return ReportContent(
        records,
        title,
        messages=messages,
        samples=samples,
        version=version,
        scores=_scores(loaded),
        predictions=_predictions(loaded),
        tasks=task_texts(record.task for record in records),
    )


def _merged(loaded: Sequence[tuple[Path, LoadedRecords]]) -> tuple[list[Record], list[str]]:
    damaged = [corrupt for folder, run in loaded for corrupt in RunStore(folder).damaged_samples(run.records)]
    corrupt = [*(each for _, run in loaded for each in run.corrupt), *damaged]
    messages = [f"corrupt file left out: {each.path}: {each.reason}" for each in corrupt]
    records, told = merge_runs([(folder.resolve().name, run.records) for folder, run in loaded])
    return list(records), messages + list(told)


def _predictions(loaded: Sequence[tuple[Path, LoadedRecords]]) -> Predictions:
    """The predictions of the cells of several runs; of a cell that several have, the later run's."""
    stores = {record.cell_id: RunStore.of_run(folder) for folder, run in loaded for record in run.records}
    return lambda record: stores[record.cell_id].kept_samples(record.cell_id)


def _scores(loaded: Sequence[tuple[Path, LoadedRecords]]) -> Scores:
    """The scores of these predictions, document by document."""
    return kept_scores(_predictions(loaded))


def show_runs(folders: Sequence[Path], console: Console, details: bool = False) -> list[str]:
    """Prints what `bench run` ends with, of several runs together; returns messages for the user.

    Args:
        folders: The runs' folders.
        console: Where to print.
        details: Whether every table comes first.

    Raises:
        StoreError: A folder holds no run.
    """
    loaded = [(folder, RunStore.of_run(folder).records()) for folder in folders]
    records, messages = _merged(loaded)
    scores = _scores(loaded)
    if details:
        print_leaderboard(records, console, scores)
    print_summary(records, console, scores)
    return [*messages, *(note for notes in apart_notes(group_seeds(records)).values() for note in notes)]


def render_runs(folders: Sequence[Path], format: str) -> tuple[str, list[str]]:
    """The leaderboard of several runs as text, and messages for the user that the text does not contain.

    Raises:
        StoreError: A folder holds no run.
        UnknownNameError: The format is unknown.
    """
    if format == "html":
        content = load_content(folders)
        return render_html(content), list(content.messages)
    loaded = [(folder, RunStore.of_run(folder).records()) for folder in folders]
    records, messages = _merged(loaded)
    if format not in FORMATS_WITH_NOTES:
        messages += [note for notes in apart_notes(group_seeds(records)).values() for note in notes]
    return render(records, format, _scores(loaded)), messages


def rescore_runs(folders: Sequence[Path], trust_code: bool = False) -> None:
    """Recomputes the metrics of every cell with status `ok` from its predictions, and rewrites the reports.

    No model runs. Metrics that do not come from predictions, such as parameter counts, stay as they are. A cell that
    cannot be scored keeps the metrics that it has, and does not keep the others from being scored.

    Raises:
        StoreError: A folder holds no run, or a run is under way in it.
        UsageError: Cells could not be scored, as their predictions cannot be read, their task no longer exists or would
            run code without `trust_code`, or their record cannot be written; the message names each.
    """
    problems = []
    for folder in folders:
        store = RunStore.of_run(folder)
        with store.held():
            for record in store.records().records:
                if record.status == "ok":
                    try:
                        store.write_record(rescore(record, store, trust_code))
                    except UsageError as error:
                        problems.append(f"{record.model} on {record.task}, seed {record.seed}: {error}")
            report_page(store)
    if problems:
        raise UsageError("\n".join(["these cells could not be scored and keep the metrics that they had:", *problems]))


def rescore(record: Record, store: RunStore, trust_code: bool = False) -> Record:
    """The record with metrics recomputed from its predictions."""
    settings = {key.removeprefix("task."): v for key, v in record.settings.items() if key.startswith("task.")}
    task = task_of(record.task, settings, record.data, trust_code)  # type: ignore[arg-type]
    own, without_branch = split_branch(list(store.read_samples(record.cell_id)))
    fresh = task.score(own, settings)  # type: ignore[arg-type]
    if without_branch:
        control = task.score(without_branch, settings)  # type: ignore[arg-type]
        main = (metric for metric in control if metric.name == record.main_metric)
        fresh += [replace(metric, name=f"{metric.name}_{WITHOUT_BRANCH}") for metric in main]
    names = {metric.name for metric in fresh}
    kept = [metric for metric in record.metrics if metric.name not in names]
    return replace(record, metrics=(*fresh, *kept))

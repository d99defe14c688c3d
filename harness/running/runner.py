"""A run from plan to report: keeps results, runs missing cells, reports failures."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console

from ...results.record import SCHEMA_VERSION, Record, Status
from ...results.report.write import write_report
from ...results.stats.evidence import kept_scores
from ...results.store import DONE_STATUSES, RunStore
from ...results.tables.row import grouped
from ...results.terminal.details import print_leaderboard
from ...results.terminal.screen import print_summary
from .. import registry
from ..cell import Cell, PlannedCell, unlike_backbones
from ..config import RunConfig, make_config
from ..environment import host_environment
from ..memory.need import memory_need
from ..plan import make_plan, make_sources
from ..task_spec import task_texts
from .clusters import make_executor
from .executors import Executor
from .job import CellJob, CellOutcome, Message
from .progress import RunDisplay, reason, say
from .tracking import Trackers, require_trackers

EXIT_OK, EXIT_FAILED, EXIT_INTERRUPTED = 0, 3, 130
RESULT_STATUSES = frozenset({"ok", "oom"})
"""Statuses of a cell that has a result; any other makes the run end with exit code 3."""
NOT_NAMED = frozenset({
    *("seeds", "output", "mirror", "offline", "executor", "workers", "timeout_s", "fresh", "log_samples", "log"),
    *("devices", "save_to", "no_gate", "audit"),
})  # fmt: skip
"""Fields of `RunConfig` that do not count in the name of a run's default folder, such as seeds and time limits."""
_GOES_ON = "the same command goes on where this one stopped"
_BEGINS_ANEW = "--fresh begins anew, and without it cells that were not reached keep their earlier results"

End: TypeAlias = Callable[[RunStore, Sequence[Record], Console], None]
"""What a run that has ended does with its records: the store has all of them, the sequence those of the plan."""

Tell: TypeAlias = Callable[[Mapping[str, Any]], None]
"""Takes what happens in a run, JSON-ready: the `total` of cells to run; a cell's `title` as it starts; its `phase` and
steps; its `status` as it ends. All but the first have the cell's id as `cell`."""


def report_page(store: RunStore) -> Path:
    """Writes the report on all records of a run, with what their tasks say of themselves."""
    return write_report(store, task_texts(record.task for record in store.records().records))


def report_summary(store: RunStore, records: Sequence[Record], console: Console) -> None:
    """Writes the report and prints the summary: one table and what it shows for sure."""
    page = report_page(store)
    print_summary(records, console, kept_scores(lambda record: store.kept_samples(record.cell_id)))
    say(console, f"report: {page}")


def report_details(store: RunStore, records: Sequence[Record], console: Console) -> None:
    """Writes the report and prints every table, and the summary below them."""
    page = report_page(store)
    scores = kept_scores(lambda record: store.kept_samples(record.cell_id))
    print_leaderboard(records, console, scores)
    print_summary(records, console, scores)
    say(console, f"report: {page}")


def run(
    config: RunConfig,
    console: Console,
    quiet: bool = False,
    planned: Sequence[PlannedCell] | None = None,
    end: End = report_summary,
    tell: Tell = lambda _: None,
) -> int:
    """Runs what `config` asks for and is not done yet, and reports it.

    Args:
        config: Configuration of the run.
        console: Console to print to.
        quiet: Print the table and failures only.
        planned: The plan of `config`; None to make it here.
        end: What is written and printed at the end.
        tell: Takes what happens, for another display of progress.

    Returns:
        0 if every cell has a result, 3 if some has none, 130 if the run was interrupted.

    Raises:
        UsageError: The configuration names something that does not exist.
        StoreError: The results folder cannot be written, or another run has it.
    """
    require_trackers(config.log)
    executor = make_executor(config.executor, config.workers)
    if planned is None:
        planned = make_plan(config, executor.prepare)
    else:
        executor.prepare({p.cell.recipe for p in planned})
    store = RunStore(Path(config.output) if config.output else default_output(config))
    store.create()
    with store.held():
        trackers = Trackers(config.log, store.root)
        return _RunUnderWay(config, store, planned, trackers, console, quiet, end, tell).go(executor)


def default_output(config: RunConfig) -> Path:
    """`results/runs/NAME`: the same name for the same request, and that of the suite if nothing else is asked."""
    asked, suite = _named(config), config.suite
    if suite and asked == _named(make_config({"suite": suite})):
        return Path("results", "runs", suite)
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:6]
    words = suite or "-".join([*config.tasks, *config.models])
    name = f"{re.sub(r'[^A-Za-z0-9]+', '-', words)[:60].strip('-')}-{config.scale}-{digest}"
    return Path("results", "runs", name)


def _named(config: RunConfig) -> dict[str, Any]:
    """The fields that count in the name of a default folder."""
    return {key: value for key, value in asdict(config).items() if key not in NOT_NAMED}


def threads_per_cell(workers: int) -> int:
    """Threads of each worker, so that all workers together have one thread for each processor."""
    return max(1, len(os.sched_getaffinity(0)) // workers)


def make_job(config: RunConfig, store: RunStore, planned: PlannedCell) -> CellJob:
    """The job of a cell: one that measures time has all threads, the others share them."""
    workers = 1 if planned.task.info.own_device else config.workers
    return CellJob(
        planned=planned,
        config=config,
        root=store.root.absolute(),
        sources=make_sources(config),
        threads=threads_per_cell(workers),
        timeout_s=config.timeout_s,
        model_key=_model_key(config, planned),
        need_bytes=memory_need(planned, config.devices),
    )


def _model_key(config: RunConfig, planned: PlannedCell) -> str | None:
    """What determines a pretrained model that nothing trains; None if a cell changes its model or measures time.

    Also None for a task of a plugin, which may leave anything behind.
    """
    cell, info = planned.cell, planned.task.info
    if type(planned.task).__module__.partition(".")[0] != registry.PACKAGE:
        return None
    if cell.recipe != "zero-shot" or planned.weights is None or info.own_device or config.save_to:
        return None
    fields = (cell.model, cell.backbone, cell.weights, dict(cell.settings["backbone"]), cell.seed, cell.device)
    return json.dumps([*fields, cell.dtype, info.weights_in_dtype])


@dataclass(frozen=True)
class _RunUnderWay:
    """A run whose plan is made and whose folder no other run can write."""

    config: RunConfig
    store: RunStore
    planned: Sequence[PlannedCell]
    trackers: Trackers
    console: Console
    quiet: bool
    end: End
    tell: Tell

    def go(self, executor: Executor) -> int:
        """Runs the missing cells, reports all and gives the exit code."""
        loaded, folder = self.store.records(), self.store.folder
        for corrupt in (*loaded.corrupt, *self.store.damaged_samples(loaded.records)):
            aside = self.store.set_aside(corrupt)
            self._say(f"corrupt file set aside as {aside}: {corrupt.reason}")
        folder.remove_litter()
        for record in loaded.records:
            if record.status in DONE_STATUSES:  # the run was killed after it had written the record
                folder.remove(folder.root / "checkpoints" / record.cell_id)
        for change in (_restore_superseded, _set_superseded_aside):
            for message in change(self.store, self.planned):
                self._say(message)
        self.store.write_manifest({
            "schema_version": SCHEMA_VERSION,
            "configuration": asdict(self.config),
            "environment": dict(host_environment()),
            "plan": [{"cell": p.cell.key, **asdict(p.cell)} for p in self.planned],
        })  # fmt: skip
        jobs = [make_job(self.config, self.store, p) for p in self._missing()]
        if self.config.fresh:
            for name in ("artifacts", *(f"checkpoints/{job.cell.key}" for job in jobs)):
                folder.remove(folder.root / name)
        if not self.quiet:
            done = len(self.planned) - len(jobs)
            self._say(f"{len(self.planned)} cells, {done} already done; results in {self.store.root}")
            if self.config.backbone is None:
                for line in unlike_backbones(self.planned):
                    self._say(line)
            self._say_problems(jobs)
        interrupted = not self._run_jobs(jobs, executor)
        return self._finish(interrupted)

    def _say(self, text: str) -> None:
        say(self.console, text)

    def _say_problems(self, jobs: Sequence[CellJob]) -> None:
        """Says once, before anything starts, what keeps cells from running, such as data that are not available."""
        known = [(problem, job.cell) for job in jobs if (problem := job.planned.problem)]
        for message, pairs in grouped(known, lambda pair: pair[0].message).items():
            tasks = ", ".join(dict.fromkeys(cell.task for _, cell in pairs))
            self._say(f"{len(pairs)} of {len(self.planned)} cells cannot run ({tasks}): {message}")

    def _missing(self) -> list[PlannedCell]:
        if self.config.fresh or self.config.save_to:
            return list(self.planned)
        done = {r.cell_id for r in self.store.records().records if r.status in DONE_STATUSES}
        return [p for p in self.planned if p.problem is not None or p.cell.key not in done]

    def _run_jobs(self, jobs: Sequence[CellJob], executor: Executor) -> bool:
        """Runs cells and stores each outcome as it comes; false if interrupted. No cell outlives this call."""
        titles = _titles([job.cell for job in jobs])
        self.tell({"total": len(jobs)})
        with RunDisplay(self.console, len(jobs), self.quiet) as display:

            def end(job: CellJob, outcome: CellOutcome) -> None:
                self._keep(job, outcome)
                display.finished(job.cell.key, titles[job.cell.key], outcome.record)
                self.tell({"cell": job.cell.key, "status": outcome.record.status})

            for job in jobs:
                if problem := job.planned.problem:
                    status: Status = "unsupported" if job.planned.unsupported else "error"
                    end(job, CellOutcome(job.record(status, problem), []))
            runnable = [job for job in jobs if job.planned.problem is None]
            try:
                outcomes = executor.run(
                    runnable,
                    started=lambda job: self._started(display, job, titles[job.cell.key]),
                    on_progress=lambda job, message: self._progressed(display, job, message),
                )
                for job, outcome in outcomes:
                    end(job, outcome)
            except KeyboardInterrupt:
                return False
            finally:
                if runnable:
                    executor.cancel()
        return True

    def _started(self, display: RunDisplay, job: CellJob, title: str) -> None:
        display.started(job.cell.key, title)
        self.tell({"cell": job.cell.key, "title": title})

    def _progressed(self, display: RunDisplay, job: CellJob, message: Message) -> None:
        display.update(job.cell.key, message)
        self.tell({"cell": job.cell.key, **message})

    def _keep(self, job: CellJob, outcome: CellOutcome) -> None:
        """Writes predictions first, then the record, so that a record with status `ok` always has its predictions."""
        key = job.cell.key
        if outcome.rows:
            self.store.write_samples(key, outcome.rows)
        self.store.write_record(outcome.record)
        if outcome.log.strip():
            self.store.write_text(self.store.root / "logs" / f"{key}.log", outcome.log)
        if outcome.record.status in DONE_STATUSES:
            self.store.folder.remove(self.store.root / "checkpoints" / key)
        self.trackers.send_cell(outcome.record)

    def _finish(self, interrupted: bool) -> int:
        """Reports the records and gives the exit code."""
        by_key = {record.cell_id: record for record in self.store.records().records}
        records = [by_key[p.cell.key] for p in self.planned if p.cell.key in by_key]
        self.end(self.store, records, self.console)
        for line in self.trackers.finish(records):
            self._say(line)
        if interrupted:
            self._say(f"interrupted; {_BEGINS_ANEW if self.config.fresh else _GOES_ON}")
            return EXIT_INTERRUPTED
        failed = [record for record in records if record.status not in RESULT_STATUSES]
        if not failed:
            return EXIT_OK
        counts = sorted(Counter(record.status for record in failed).items())
        summary = ", ".join(f"{count} {status}" for status, count in counts)
        self._say(f"{len(failed)} of {len(records)} cells have no result: {summary}")
        for record in failed:
            self._say(f"  {_name(record)}: {reason(record)}")
        return EXIT_FAILED


def _set_superseded_aside(store: RunStore, planned: Sequence[PlannedCell]) -> Iterator[str]:
    """Moves away cells that this plan measures anew with other settings, data or code; gives a message for each.

    Otherwise one model would stand twice in the leaderboard, or two protocols would be averaged as if they were seeds.
    """
    keys = {_row(p.cell): p.cell.key for p in planned}
    for record in store.records().records:
        if record.cell_id != keys.get(_row(record), record.cell_id):
            aside = _superseded(store, record.cell_id)
            store.folder.move(store.cells / aside.name, aside)
            yield f"{_name(record)}: settings, data or code changed; the earlier record is now in {aside.parent}"


def _restore_superseded(store: RunStore, planned: Sequence[PlannedCell]) -> Iterator[str]:
    """Restores cells that an earlier run set aside and this plan asks for again; gives a message for each.

    This happens when settings are changed back, or when data that was not available is there again.
    """
    for p in planned:
        aside = _superseded(store, p.cell.key)
        target = store.cells / aside.name
        if p.problem is None and aside.exists() and not target.exists():
            store.folder.move(aside, target)
            yield f"{p.cell.title}: taken back from {aside.parent}, it was measured with these settings"


def _superseded(store: RunStore, key: str) -> Path:
    return store.root / "superseded" / f"{key}.json"


def _row(cell: Cell | Record) -> tuple[object, ...]:
    """The key of a cell's row in the leaderboard."""
    return cell.model, cell.backbone, cell.task, cell.recipe, cell.scale, cell.seed, cell.limit


def _titles(cells: Sequence[Cell]) -> dict[str, str]:
    """The cells' names by key: model and task, and of backbone, recipe, scale and seed what tells cells apart."""
    titles: dict[str, tuple[str, ...]] = {cell.key: (cell.model, cell.task) for cell in cells}
    for part in ("backbone", "recipe", "scale", "seed"):
        shown = {cell.key: f"seed {cell.seed}" if part == "seed" else str(getattr(cell, part)) for cell in cells}
        longer = {key: (*parts, shown[key]) for key, parts in titles.items()}
        if len(set(longer.values())) > len(set(titles.values())):
            titles = longer
    return {key: " / ".join(parts) for key, parts in titles.items()}


def _name(record: Record) -> str:
    return f"{record.model} / {record.task} / seed {record.seed}"

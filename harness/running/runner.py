"""A run from plan to report: what is done stays done, what is missing runs, what fails is told."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ...results.record import SCHEMA_VERSION, Record, Status
from ...results.report.write import write_report
from ...results.store import DONE_STATUSES, RunStore
from ...results.tables.terminal import print_leaderboard
from ..cell import Cell
from ..config import RunConfig
from ..environment import host_environment
from ..plan import PlannedCell, make_plan, make_sources
from .executors import Executor, Job, make_executor
from .process import Outcome
from .progress import RunDisplay, reason, say
from .request import Request
from .tracking import Trackers, require_trackers
from .worker import failed_record

EXIT_OK, EXIT_FAILED, EXIT_INTERRUPTED = 0, 3, 130
RESULT_STATUSES = frozenset({"ok", "oom"})
"""Statuses of a cell that has a result; any other makes the run end with exit code 3."""
NOT_NAMED = frozenset(
    {
        "seeds",
        "output",
        "mirror",
        "offline",
        "executor",
        "workers",
        "timeout_s",
        "fresh",
        "log_samples",
        "log",
        "save_to",
    }
)
"""What may differ between two runs that share a folder unless told otherwise: more seeds, another time limit."""


def run(config: RunConfig, console: Console, quiet: bool = False) -> int:
    """Runs what `config` asks for and is not done yet, and writes the report.

    Args:
        config: What to run.
        console: Where to print.
        quiet: Print the table and failures only.

    Returns:
        0 when every cell has a result, 3 when some has none, 130 when interrupted.

    Raises:
        UsageError: Something that does not exist was asked for.
        StoreError: The results folder cannot be written, or another run has it.
    """
    require_trackers(config.log)
    executor = make_executor(config.executor, config.workers)
    planned = make_plan(config, executor.prepare)
    store = RunStore(Path(config.output) if config.output else default_output(config))
    store.create()
    with store.held():
        return _run(config, store, planned, executor, console, quiet)


def _run(
    config: RunConfig,
    store: RunStore,
    planned: Sequence[PlannedCell],
    executor: Executor,
    console: Console,
    quiet: bool,
) -> int:
    for corrupt in store.records().corrupt:
        aside = store.set_aside(corrupt)
        say(console, f"corrupt cell file set aside as {aside}: {corrupt.reason}")
    for message in [*_restore_superseded(store, planned), *_set_superseded_aside(store, planned)]:
        say(console, message)
    store.write_manifest(_manifest(config, planned))
    done = set() if config.fresh or config.save_to else _done(store, planned)
    missing = [p for p in planned if p.cell.key not in done]
    if config.fresh:
        for p in missing:
            shutil.rmtree(_checkpoints(store, p), ignore_errors=True)
        shutil.rmtree(_artifacts(store), ignore_errors=True)
    if not quiet:
        say(console, f"{len(planned)} cells, {len(planned) - len(missing)} already done; results in {store.root}")
    trackers = Trackers(config.log, store.root)
    interrupted = not _run_cells(config, store, missing, executor, trackers, console, quiet)
    return _finish(store, planned, trackers, console, interrupted)


def default_output(config: RunConfig) -> Path:
    """`results/runs/NAME` below the current folder; the same request has the same name."""
    if config.suite and not config.overrides and config.limit is None:
        name = config.suite
    else:
        asked = {key: value for key, value in config.as_dict().items() if key not in NOT_NAMED}
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:6]
        words = "-".join([*config.tasks, *config.models])
        name = f"{re.sub(r'[^A-Za-z0-9]+', '-', words)[:60].strip('-')}-{config.scale}-{digest}"
    return Path("results", "runs", name)


def threads_per_cell(workers: int) -> int:
    """Threads of each worker, so that together they fill the processor and no more."""
    return max(1, len(os.sched_getaffinity(0)) // workers)


def _manifest(config: RunConfig, planned: Sequence[PlannedCell]) -> dict[str, object]:
    return {
        "schema_version": SCHEMA_VERSION,
        "configuration": config.as_dict(),
        "environment": dict(host_environment()),
        "plan": [{"cell": p.cell.key, **p.cell.as_dict()} for p in planned],
    }


def _set_superseded_aside(store: RunStore, planned: Sequence[PlannedCell]) -> list[str]:
    """Moves away cells that this plan measures anew with other settings, data or code, and says which.

    Otherwise one model would stand twice in the leaderboard, or two protocols would be averaged as if they were seeds.
    """
    keys = {_place(p.cell): p.cell.key for p in planned}
    messages = []
    for record in store.records().records:
        if record.cell_id != keys.get(_place(record), record.cell_id):
            folder = _superseded(store)
            folder.mkdir(exist_ok=True)
            (store.cells / f"{record.cell_id}.json").replace(folder / f"{record.cell_id}.json")
            place = f"{record.model} / {record.task} / seed {record.seed}"
            messages.append(f"{place}: settings, data or code changed; the earlier record is now in {folder}")
    return messages


def _restore_superseded(store: RunStore, planned: Sequence[PlannedCell]) -> list[str]:
    """Takes back cells that an earlier run set aside and this plan asks for again, as after data was out of reach."""
    messages = []
    for p in planned:
        aside, target = _superseded(store) / f"{p.cell.key}.json", store.cells / f"{p.cell.key}.json"
        if p.problem is None and aside.exists() and not target.exists():
            aside.replace(target)
            messages.append(f"{p.cell.title}: taken back from {aside.parent}, it was measured with these settings")
    return messages


def _superseded(store: RunStore) -> Path:
    return store.root / "superseded"


def _place(cell: Cell | Record) -> tuple[object, ...]:
    """Where a cell stands in the leaderboard."""
    return cell.model, cell.backbone, cell.task, cell.recipe, cell.scale, cell.seed, cell.limit


def _checkpoints(store: RunStore, planned: PlannedCell) -> Path:
    return (store.root / "checkpoints" / planned.cell.key).resolve()


def _artifacts(store: RunStore) -> Path:
    return (store.root / "artifacts").resolve()


def _done(store: RunStore, planned: Sequence[PlannedCell]) -> set[str]:
    wanted = {p.cell.key for p in planned if p.problem is None}
    return {r.cell_id for r in store.records().records if r.cell_id in wanted and r.status in DONE_STATUSES}


def _run_cells(
    config: RunConfig,
    store: RunStore,
    missing: Sequence[PlannedCell],
    executor: Executor,
    trackers: Trackers,
    console: Console,
    quiet: bool,
) -> bool:
    """Runs cells and stores each outcome as it comes; false when interrupted. No cell outlives this call."""
    by_key = {p.cell.key: p for p in missing}
    with RunDisplay(console, len(missing), quiet) as display:
        for p in missing:
            if p.problem is not None:
                _keep(store, trackers, display, p, _problem_outcome(_request(config, store, p), p))
        runnable = [
            Job(_request(config, store, p), p.own_device, config.timeout_s) for p in missing if p.problem is None
        ]
        try:
            outcomes = executor.run(
                runnable,
                lambda job: display.started(job.request.cell.key, job.request.cell.title),
                lambda job: lambda message: display.update(job.request.cell.key, message),
            )
            for job, outcome in outcomes:
                _keep(store, trackers, display, by_key[job.request.cell.key], outcome)
        except KeyboardInterrupt:
            return False
        finally:
            if runnable:
                executor.cancel()
    return True


def _request(config: RunConfig, store: RunStore, planned: PlannedCell) -> Request:
    sources = make_sources(config)
    return Request(
        cell=planned.cell,
        run_id=store.root.name,
        main_metric=planned.main_metric,
        mirror=str(sources.mirror) if sources.mirror else None,
        cache=str(sources.cache),
        offline=sources.offline,
        threads=threads_per_cell(1 if planned.own_device else config.workers),
        auto_batch=config.batch_size == "auto",
        checkpoints=str(_checkpoints(store, planned)),
        artifacts=str(_artifacts(store)),
        save_to=config.save_to,
        trust_remote_code=config.trust_remote_code,
        log_samples=config.log_samples,
    )


def _problem_outcome(request: Request, planned: PlannedCell) -> Outcome:
    assert planned.problem is not None
    status: Status = "unsupported" if planned.unsupported else "error"
    return Outcome(failed_record(request, status, planned.problem), [], "")


def _keep(store: RunStore, trackers: Trackers, display: RunDisplay, planned: PlannedCell, outcome: Outcome) -> None:
    """Writes predictions first, then the record: a record that says `ok` always has its predictions."""
    key = planned.cell.key
    if outcome.rows:
        store.write_samples(key, outcome.rows)
    store.write_record(outcome.record)
    if outcome.log.strip():
        logs = store.root / "logs"
        logs.mkdir(exist_ok=True)
        store.write_text(logs / f"{key}.log", outcome.log)
    if outcome.record.status in DONE_STATUSES:
        shutil.rmtree(_checkpoints(store, planned), ignore_errors=True)
    display.finished(key, planned.cell.title, outcome.record)
    trackers.send_cell(outcome.record)


def _finish(
    store: RunStore, planned: Sequence[PlannedCell], trackers: Trackers, console: Console, interrupted: bool
) -> int:
    by_key = {r.cell_id: r for r in store.records().records}
    records = [by_key[p.cell.key] for p in planned if p.cell.key in by_key]
    page = write_report(store)
    print_leaderboard(records, console)
    say(console, f"report: {page}")
    for line in trackers.finish(records):
        say(console, line)
    if interrupted:
        say(console, "interrupted; the same command goes on where this one stopped")
        return EXIT_INTERRUPTED
    return _exit_code(records, console)


def _exit_code(records: Sequence[Record], console: Console) -> int:
    failed = Counter(r.status for r in records if r.status not in RESULT_STATUSES)
    if not failed:
        return EXIT_OK
    counts = ", ".join(f"{count} {status}" for status, count in sorted(failed.items()))
    say(console, f"{sum(failed.values())} of {len(records)} cells have no result: {counts}")
    for record in records:
        if record.status not in RESULT_STATUSES:
            say(console, f"  {record.model} / {record.task} / seed {record.seed}: {reason(record)}")
    return EXIT_FAILED

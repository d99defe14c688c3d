"""Plans and runs the studies behind artefacts of the paper, softmax before its students."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from rich.console import Console

from ...results.names import unknown_name
from ...results.record import Record
from ...results.store import RunStore
from ...results.tables.aggregate import group_seeds, main_rows, rows_of_groups
from ...results.tables.format import format_with_error
from ...results.tables.notes import unlearned_level
from ...results.tables.row import REFERENCE_MODEL
from ...tasks.base import DataUnavailableError
from ..cell import PlannedCell
from ..config import RunConfig
from ..plan import make_plan
from ..recipes import RECIPES
from ..running.progress import say
from ..running.runner import EXIT_INTERRUPTED, EXIT_OK, report_page, run
from .artefacts import ARTEFACTS
from .declarations import TEACHER_SCALES, Artefact, Study
from .measured import write_gaps
from .studies import STUDIES

_Place: TypeAlias = tuple[str, str, str]
"""Backbone, task and recipe."""


@dataclass(frozen=True)
class Gap:
    """What an artefact lacks, and why."""

    study: str
    what: str
    reason: str


@dataclass(frozen=True)
class PaperPlan:
    """The cells behind a choice of artefacts.

    Attributes:
        config: Configuration of the run as a whole.
        cells: Cells by study; studies may share some.
        gaps: What cannot run here: studies that have no such scale, and tasks whose data or weights are absent.
        absent: Cells by study whose data or weights are absent.
    """

    config: RunConfig
    cells: dict[str, tuple[PlannedCell, ...]]
    gaps: tuple[Gap, ...]
    absent: dict[str, tuple[PlannedCell, ...]] = field(default_factory=dict)

    def wanted(self, studies: Iterable[str]) -> list[PlannedCell]:
        """Every cell of some studies once, also those that cannot run here."""
        chosen = (p for name in studies for p in (*self.cells.get(name, ()), *self.absent.get(name, ())))
        return list({planned.cell.key: planned for planned in chosen}.values())

    def all(self) -> list[PlannedCell]:
        """Every cell once."""
        return list({cell.cell.key: cell for cells in self.cells.values() for cell in cells}.values())


def choose_artefacts(ids: Iterable[str]) -> list[Artefact]:
    """Artefacts by id; all of them if none is named.

    Raises:
        UnknownNameError: There is no such artefact.
    """
    names = list(ids) or list(ARTEFACTS)
    for name in names:
        if name not in ARTEFACTS:
            raise unknown_name("artefact", name, ARTEFACTS)
    return [ARTEFACTS[name] for name in names]


def studies_of(artefacts: Iterable[Artefact]) -> list[Study]:
    """The studies that artefacts are drawn from, each once."""
    return [STUDIES[name] for name in dict.fromkeys(name for artefact in artefacts for name in artefact.studies)]


def plan_studies(studies: Sequence[Study], config: RunConfig, seeds: tuple[int, ...] = ()) -> PaperPlan:
    """The cells of studies at the scale of `config`.

    Args:
        studies: The studies.
        config: What all studies share: scale, device, mirror, folder; its models and tasks do not count.
        seeds: Seeds instead of each study's own number of them.

    Raises:
        UsageError: A setting is not allowed.
    """
    cells: dict[str, tuple[PlannedCell, ...]] = {}
    unavailable: dict[str, tuple[PlannedCell, ...]] = {}
    gaps: list[Gap] = []
    for study in studies:
        if config.scale not in study.scales:
            gaps.append(Gap(study.name, ", ".join(study.columns), study.gaps[config.scale]))
            continue
        planned = make_plan(config_of(study, config, seeds), is_user_chosen=False)
        absent = {p.cell.task: _first_line(p.problem.message) for p in planned if p.problem and _is_absent(p)}
        gaps += [Gap(study.name, task, reason) for task, reason in absent.items()]
        cells[study.name] = tuple(p for p in planned if not _is_absent(p))
        unavailable[study.name] = tuple(p for p in planned if _is_absent(p))
    every = [p.cell for planned in cells.values() for p in planned]
    whole = replace(
        config,
        suite="paper",
        models=tuple(dict.fromkeys(cell.model for cell in every)),
        tasks=tuple(dict.fromkeys(cell.task for cell in every)),
        seeds=tuple(sorted({cell.seed for cell in every})) or (0,),
    )
    return PaperPlan(whole, cells, tuple(gaps), unavailable)


def config_of(study: Study, config: RunConfig, seeds: tuple[int, ...] = ()) -> RunConfig:
    """The configuration of one study, as `bench run` would take it."""
    at = study.scales[config.scale]
    return replace(
        config,
        suite="paper",
        models=study.models_at(config.scale),
        tasks=at.tasks,
        backbone=at.backbone,
        recipe=study.recipe,
        seeds=seeds or tuple(range(at.seeds)),
        overrides=dict(at.settings),
    )


def run_studies(plan: PaperPlan, console: Console, quiet: bool = False) -> int:
    """Runs what is missing: softmax first, then the students whose softmax model has learned.

    Returns:
        0 if every cell that could run has a result, 3 if some has none, 130 if the run was interrupted.
    """
    store = RunStore(Path(plan.config.output or ""))
    store.create()
    write_gaps(store, _with_blind(plan, {}))
    for gap in plan.gaps:
        say(console, f"{gap.study}: {gap.what} left out: {gap.reason}")
    every = plan.all()
    if not every:
        return EXIT_OK
    first = [p for p in every if p.spec.canonical == REFERENCE_MODEL and _has_students(p)]
    code = EXIT_OK
    if first and plan.config.scale in TEACHER_SCALES:
        code = run(plan.config, console, quiet, first, end=_no_report)
        if code == EXIT_INTERRUPTED:
            report_page(store)
            return code
        blind = blind_teachers(store, {p.cell.key for p in first})
        for where, why in blind.items():
            say(console, f"{' / '.join(where)}: its students do not run, because {why}")
        write_gaps(store, _with_blind(plan, blind))
        every = [p for p in every if p in first or _place(p) not in blind]
    return run(plan.config, console, quiet, every, end=_report) or code


def _with_blind(plan: PaperPlan, blind: Mapping[_Place, str]) -> dict[str, dict[str, str]]:
    """The gaps of each study, and its tasks on which students do not run, with the reasons."""
    return {
        study: {
            **{gap.what: gap.reason for gap in plan.gaps if gap.study == study},
            **{p.cell.task: f"no student ran: {blind[_place(p)]}" for p in cells if _place(p) in blind},
        }
        for study, cells in plan.cells.items()
    }


def blind_teachers(store: RunStore, keys: Collection[str]) -> dict[_Place, str]:
    """Backbone, task and recipe of softmax models that have not learned, and how that shows.

    Args:
        store: The run.
        keys: Cells of softmax models.
    """
    records = [record for record in store.records().records if record.cell_id in keys]
    blind = {_place_of(r): f"softmax has no result: {r.error.message}" for r in records if r.error is not None}
    rows = main_rows(rows_of_groups(group_seeds(records)))
    for row in (row for found in rows.values() for row in found):
        if level := unlearned_level(row):
            score = format_with_error(row.value, row.stderr, row.unit)
            where = row.comparison
            blind[where.backbone, where.task, where.recipe] = (
                f"softmax did not learn: {row.metric} {score}, {level.name} {format_with_error(level.value, None)}"
            )
    return blind


def _is_absent(planned: PlannedCell) -> bool:
    """Whether data or weights are neither in the mirror nor to be had."""
    return planned.problem is not None and planned.problem.type == DataUnavailableError.__name__


def _first_line(message: str) -> str:
    """What is absent, without the places that were looked in."""
    return message.splitlines()[0].removesuffix(" Looked in:")


def _has_students(planned: PlannedCell) -> bool:
    """Whether other models are trained beside this one, or from it."""
    return any(stage != "swap" for stage in RECIPES[planned.cell.recipe].stages)


def _place(planned: PlannedCell) -> _Place:
    return planned.cell.backbone, planned.cell.task, planned.cell.recipe


def _place_of(record: Record) -> _Place:
    return record.backbone, record.task, record.recipe


def _no_report(store: RunStore, records: Sequence[Record], console: Console) -> None:
    """The students' part of the run writes the report."""


def _report(store: RunStore, records: Sequence[Record], console: Console) -> None:  # noqa: ARG001
    """Writes the report; the artefacts are rendered apart from the run."""
    say(console, f"report: {report_page(store)}")

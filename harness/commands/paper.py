"""`bench paper`: lists the paper's artefacts, measures and renders them, and judges its claims by what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ...results.foreign import format_json
from ...results.names import UsageError
from ...results.paper.claims import claims_json, claims_table, print_claims
from ...results.record import Record
from ...results.store import RunStore
from ...results.tables.leaderboard import markdown_table
from ..config import RunConfig
from ..paper.declarations import Artefact
from ..paper.render import judged_claims, write_paper
from ..paper.reproduce import PaperPlan, choose_artefacts, plan_studies, run_studies, studies_of
from ..running.progress import say
from .listing import print_listing


@dataclass(frozen=True)
class PaperRequest:
    """What the command line asks of the paper.

    Attributes:
        artefacts: Ids of artefacts; empty for all.
        config: Scale, device, mirror, folder and the like.
        seeds: Seeds instead of each study's own number of them.
        quiet: Print failures only.
        as_json: Print JSON.
        as_markdown: Print Markdown.
    """

    artefacts: tuple[str, ...]
    config: RunConfig
    seeds: tuple[int, ...] = ()
    quiet: bool = False
    as_json: bool = False
    as_markdown: bool = False

    @property
    def chosen(self) -> list[Artefact]:
        """The artefacts.

        Raises:
            UnknownNameError: There is no such artefact.
        """
        return choose_artefacts(self.artefacts)

    @property
    def store(self) -> RunStore:
        """The run's folder."""
        return RunStore(Path(self.config.output or Path("results", "runs", f"paper-{self.config.scale}")))

    @property
    def made_store(self) -> RunStore:
        """The run's folder, which exists.

        Raises:
            UsageError: It holds no run.
        """
        if not self.store.cells.is_dir():
            raise UsageError(
                f"{str(self.store.root)!r} is not a run's folder: it has no folder cells/; bench paper run makes one"
            )
        return self.store

    @property
    def plan(self) -> PaperPlan:
        """The cells behind the artefacts."""
        config = replace(self.config, output=str(self.store.root))
        return plan_studies(studies_of(self.chosen), config, self.seeds)


def list_artefacts(request: PaperRequest, console: Console) -> int:
    """Prints each artefact with its cells, how many are done, the hours that they took, and those that are left."""
    plan = request.plan
    done = {record.cell_id: record for record in request.store.records().records if record.status == "ok"}
    rows = [_artefact_row(artefact, plan, done) for artefact in request.chosen]
    if request.as_json:
        print(json.dumps(rows, indent=2))
    else:
        print_listing(rows, console)
    return 0


def run_artefacts(request: PaperRequest, console: Console) -> int:
    """Measures what is missing, then renders."""
    artefacts = request.chosen
    code = run_studies(request.plan, console, request.quiet)
    if request.store.cells.is_dir():
        say(console, f"artefacts: {write_paper(request.store, artefacts, request.config.scale)}")
    return code


def render_artefacts(request: PaperRequest, console: Console) -> int:
    """Renders the artefacts from the records that exist.

    Raises:
        UsageError: The folder holds no run.
    """
    say(console, f"artefacts: {write_paper(request.made_store, request.chosen, request.config.scale)}")
    return 0


def judge_artefacts(request: PaperRequest, console: Console) -> int:
    """Prints the claims of the artefacts, each with its verdict from the records that exist.

    Verdicts are adjusted for the number of all claims that are judged, printed or not.

    Raises:
        UsageError: The folder holds no run.
    """
    chosen = {artefact.id for artefact in request.chosen}
    lines = [line for line in judged_claims(request.made_store, request.config.scale) if line.artefact in chosen]
    if request.as_json:
        print(format_json(claims_json(lines), indent=1))
    elif request.as_markdown:
        print(markdown_table(claims_table("Claims", lines), "claim"), end="")
    else:
        print_claims(lines, console)
    return 0


def _artefact_row(artefact: Artefact, plan: PaperPlan, done: Mapping[str, Record]) -> dict[str, Any]:
    cells = [cell.cell for name in artefact.studies for cell in plan.cells.get(name, ())]
    taken = [sum(done[cell.key].timings_s.values()) for cell in cells if cell.key in done]
    left = [_expected_s(cell.task, done.values()) for cell in cells if cell.key not in done]
    known = [seconds for seconds in left if seconds is not None]
    return {
        "artefact": artefact.id,
        "title": artefact.title,
        "studies": list(artefact.studies),
        "cells": len(cells),
        "done": len(taken),
        "hours taken": f"{sum(taken) / 3600:.2f}",
        "hours left": f"{sum(known) / 3600:.2f}" if len(known) == len(left) else "not known",
        "gaps": sum(gap.study in artefact.studies for gap in plan.gaps),
    }


def _expected_s(task: str, done: Any) -> float | None:
    """Seconds that a cell of a task is expected to take: the mean of its cells that are done."""
    times = [sum(record.timings_s.values()) for record in done if record.task == task]
    return sum(times) / len(times) if times else None


VERBS: Mapping[str, Callable[[PaperRequest, Console], int]] = {
    "list": list_artefacts,
    "run": run_artefacts,
    "render": render_artefacts,
    "claims": judge_artefacts,
}
"""The commands after `bench paper`."""

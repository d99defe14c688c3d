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
from ...results.store import RunStore
from ...results.tables.leaderboard import markdown_table
from ..config import RunConfig
from ..costs.training import GPU_LEGEND, whole_cost
from ..paper.declarations import Artefact
from ..paper.hours import LEGEND, Rates, without
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
        quiet: Print failures, what is left out and where results are, and no progress.
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
        config = replace(self.config, output=str(self.store.root), audit=True)
        return plan_studies(studies_of(self.chosen), config, self.seeds)


def list_artefacts(request: PaperRequest, console: Console) -> int:
    """Prints each artefact with its cells, how many are done, the hours that they took, and those that are left.

    At scale `paper` hours and memory of a GPU are counted too; see `costs/training.py`.
    """
    plan = request.plan
    done = {record.cell_id: record for record in request.store.records().records if record.status == "ok"}
    rates, counts_gpu = Rates(plan, done), request.config.scale == "paper"
    rows = [{**_artefact_row(artefact, plan, rates), **(_gpu(artefact, plan) if counts_gpu else {})}
            for artefact in request.chosen]  # fmt: skip
    if request.as_json:
        print(json.dumps(rows, indent=2))
        return 0
    shown = [key for key in rows[0] if key not in ("title", "studies") and any(row[key] != {} for row in rows)]
    print_listing([{key: row[key] for key in shown} for row in rows], console)
    console.print(LEGEND, markup=False, highlight=False)
    if counts_gpu:
        cost, _ = whole_cost(plan.wanted(plan.cells))
        together = f"Cells that artefacts share are counted once here: {cost.gpu_hours:,.0f} GPU hours."
        console.print(f"{GPU_LEGEND} {together}", markup=False, highlight=False)
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


def _artefact_row(artefact: Artefact, plan: PaperPlan, rates: Rates) -> dict[str, Any]:
    cells = {p.cell.key for name in artefact.studies for p in plan.cells.get(name, ())}
    hours = rates.hours(artefact.studies)
    return {
        "artefact": artefact.id,
        "title": artefact.title,
        "studies": list(artefact.studies),
        "cells": len(cells),
        "done": len(cells) - hours.unknown - sum(hours.sources.values()),
        "hours taken": f"{hours.taken:.2f}",
        "hours left": hours.left_text if cells else "–",
        "from": dict(hours.sources),
        "gaps": sum(gap.study in artefact.studies for gap in plan.gaps),
    }


def _gpu(artefact: Artefact, plan: PaperPlan) -> dict[str, Any]:
    """What an artefact costs on a GPU, by count."""
    cells = plan.wanted(artefact.studies)
    cost, uncounted = whole_cost(cells)
    if uncounted == len(cells):
        return {"GPU hours": "not counted", "GiB": "–"}
    hours = f"{cost.gpu_hours:,.{0 if cost.gpu_hours >= 10 else 2}f}"
    return {"GPU hours": f"{hours}{without(uncounted)}", "GiB": f"{cost.bytes / 2**30:.0f}"}


VERBS: Mapping[str, Callable[[PaperRequest, Console], int]] = {
    "list": list_artefacts,
    "run": run_artefacts,
    "render": render_artefacts,
    "claims": judge_artefacts,
}
"""The commands after `bench paper`."""

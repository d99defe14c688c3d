"""The report's sections: one for each task or group of tasks, with what it measures, its plots, tables and notes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..plots.make import Drawing
from ..record import Record
from ..stats.changes import QUALITY_UNITS
from ..stats.evidence import Scores
from ..stats.quiet import NO_PACE, NOT_QUIET
from ..tables.aggregate import SeedGroup, rows_of_groups
from ..tables.confounders import Confounders, confounders
from ..tables.notes import section_notes
from ..tables.ranks import Ranking
from ..tables.row import PARTIAL, REFERENCE_MODEL, Conditions, grouped, model_label
from ..tables.summary import Summary, SummaryEntry
from ..tables.tables import MISSING, Column, Entry, Table, sections

RECIPE_WORDS: Mapping[str, str] = {
    "scratch": "trained from scratch",
    "scratch-conversion": "trained from scratch with softmax, then converted",
    "zero-shot": "as it is, nothing trained",
    "finetuned-conversion": "fine-tuned with softmax, then converted",
    "pretrained-conversion": "pretrained, then converted and fine-tuned",
    "pretrained-conversion-lora": "pretrained, then converted and adapted with LoRA",
}
"""What happened to a backbone before it was measured, by recipe."""

OPEN_PLOTS = ("quality", "maps", "curves", "layers", "lengths", "figure6", "sweep")
"""Kinds of plots that are seen at once, in this order; the others are folded."""

LEADING_PLOTS = ("overview", "quality", "figure6", "maps", "lengths", "sweep")
"""Kinds of plots of which the report opens with one, best first."""

MOST_SENTENCES = 12
"""Most tasks of a group that are described; the names of the others are in the tables."""

_ROUTINE = re.compile(
    r"stopped early after \d|kept the weights with|weights taken from|left out, as it was set to no steps|"
    r"this is the (fine-tuned )?softmax model that the others were converted from|a summary ends at token"
)
"""Matches notes that say how a training went; every other note warns of something."""

_ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
_ON_HUB = re.compile(r"([\w.-]+/[\w.-]+?)(?:/[\w.-]+)?@")


@dataclass(frozen=True)
class TaskText:
    """What a task says of itself.

    Attributes:
        summary: What it measures, in a sentence.
        citation: Where data and protocol come from.
        data: Ids of its data, such as `ORG/NAME@REVISION`.
    """

    summary: str
    citation: str = ""
    data: tuple[str, ...] = ()

    @property
    def links(self) -> tuple[tuple[str, str], ...]:
        """Texts and addresses of the papers that it cites, and of its data on the Hugging Face Hub."""
        papers = ((f"arXiv {number}", f"https://arxiv.org/abs/{number}") for number in _ARXIV.findall(self.citation))
        names = (match[1] for each in self.data if (match := _ON_HUB.match(each)))
        return (*dict.fromkeys(papers), *((name, f"https://huggingface.co/datasets/{name}") for name in names))


@dataclass(frozen=True)
class Place:
    """Tables of one backbone, recipe and scale, whose numbers may be compared.

    Attributes:
        title: What was measured there, in words.
        tables: Tables that are seen at once.
        folded: Tables of sweeps, whose plots show the same, and budgets of several tasks.
        notes: How models were compared, and what is not comparable.
        differences: What else differs between the models of a task.
        remarks: Notes of single cells on how their training went.
    """

    title: str
    tables: tuple[Table, ...]
    folded: tuple[Table, ...]
    notes: tuple[str, ...]
    differences: tuple[Confounders, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class TaskSection:
    """One task, or a group of tasks such as GLUE.

    Attributes:
        name: The task's or the group's name.
        sentences: Name and text of each task of it that is known.
        places: Its tables, by what was measured.
        plots: Its plots that are seen at once.
        folded: Its further plots.
    """

    name: str
    sentences: tuple[tuple[str, TaskText], ...]
    places: tuple[Place, ...]
    plots: tuple[Drawing, ...]
    folded: tuple[Drawing, ...]


def summary_table(summary: Summary) -> Table:
    """The summary of all tasks as a table of the page."""
    columns = tuple(
        Column(column.heading[0], ", ".join((*column.heading[1:], *column.apart))) for column in summary.columns
    )
    rows = tuple(
        (
            model_label(*model),
            tuple(_summary_entry(column.entries.get(model), model[0]) for column in summary.columns),
        )
        for model in summary.models
    )
    return Table("All tasks", columns, rows)


def _summary_entry(entry: SummaryEntry | None, model: str) -> Entry:
    if entry is None or not entry.text:
        return MISSING
    has_percent = entry.percent is not None and model != REFERENCE_MODEL and "%" not in entry.text
    return Entry(
        entry.text,
        percent=f"{entry.percent:.1f}%" if has_percent and entry.factor is None else "",
        note="" if entry.note in ("", entry.text) else entry.note,
        pale=bool(entry.note),
        ranking=Ranking(standing=entry.standing),
        order=entry.value if entry.factor is None else entry.factor,
    )


def task_sections(
    groups: Sequence[SeedGroup], scores: Scores, texts: Mapping[str, TaskText], drawings: Sequence[Drawing]
) -> list[TaskSection]:
    """A section for each task or group of tasks, tasks of quality first.

    Args:
        groups: The records, as `group_seeds` gives them.
        scores: Gives the records' metrics document by document.
        texts: What is known of tasks, by name.
        drawings: The plots, each of which goes to the section of its task.
    """
    members = grouped(groups, lambda cells: family(cells.comparison.task))
    found = []
    for name, own in members.items():
        tasks = dict.fromkeys(cells.comparison.task for cells in own)
        described = [(task, texts[plain]) for task in tasks if (plain := task.partition(":")[0]) in texts]
        plots = [drawing for drawing in drawings if family(drawing.task) == name]
        seen = sorted((p for p in plots if p.kind in OPEN_PLOTS), key=lambda plot: OPEN_PLOTS.index(plot.kind))
        folded = tuple(drawing for drawing in plots if drawing.kind not in OPEN_PLOTS)
        places = tuple(_places(own, scores))
        found.append(TaskSection(name, tuple(described[:MOST_SENTENCES]), places, tuple(seen), folded))
    costs = {name for name, own in members.items() if not any(map(_is_scored, own))}
    return sorted(found, key=lambda section: section.name in costs)


def leading_plot(drawings: Sequence[Drawing]) -> Drawing | None:
    """The plot that a report opens with; None if there is none."""
    known = [drawing for drawing in drawings if drawing.kind in LEADING_PLOTS]
    return min(known, key=lambda drawing: LEADING_PLOTS.index(drawing.kind), default=None)


def place_title(where: Conditions) -> str:
    """What was measured, in words, such as `gpt trained from scratch, scale small`."""
    words = RECIPE_WORDS.get(where.recipe, f"by the recipe {where.recipe}")
    limit = "" if where.limit is None else f"; {PARTIAL}: first {where.limit} rows"
    return f"{where.backbone} {words}, scale {where.scale}{limit}"


def warnings_of(records: Sequence[Record], summary: Summary) -> Iterator[str]:
    """Times that are not compared, fallbacks, substitutes, and whatever else is not the usual course of a training."""
    timed = (column for column in summary.columns if column.kind == "time")
    for column in timed:
        for note in dict.fromkeys(entry.note for entry in column.entries.values()):
            if note in (NOT_QUIET, NO_PACE):
                yield f"{column.comparison.task} on {column.comparison.backbone}: {note}; its times are not compared"
    yield from _noted(records, is_routine=False)


def family(task: str) -> str:
    """The group that a task belongs to by its name, such as `glue`, else its own name."""
    return task if ":" in task.partition("/")[0] else task.partition("/")[0]


def _is_scored(cells: SeedGroup) -> bool:
    """Whether a task's main metric is one of quality."""
    return any(metric.unit in QUALITY_UNITS for record in cells.records if (metric := record.main()) is not None)


def _places(groups: Sequence[SeedGroup], scores: Scores) -> Iterator[Place]:
    """Numbers of different backbones, recipes, scales or limits never share a table."""
    for own in grouped(groups, lambda cells: cells.comparison.section).values():
        tables: list[Table] = []
        notes: list[str] = []
        for board in sections(rows_of_groups(own, scores), section_notes(own, scores)):
            tables += board.tables + board.secondary
            notes += board.notes
        yield Place(
            place_title(own[0].comparison),
            tuple(table for table in tables if not table.is_folded),
            tuple(table for table in tables if table.is_folded),
            tuple(notes),
            tuple(confounders(own)),
            tuple(_noted([record for cells in own for record in cells.records], is_routine=True)),
        )


def _noted(records: Sequence[Record], is_routine: bool) -> Iterator[str]:
    noted = ((record, note) for record in records for note in record.notes if bool(_ROUTINE.search(note)) == is_routine)
    for (task, note), pairs in grouped(noted, lambda pair: (pair[0].task, pair[1])).items():
        yield f"{', '.join(dict.fromkeys(record.model for record, _ in pairs))} on {task}: {note}"

"""The paper's artefacts from the records of a run: tables beside the printed ones, figures, and what differed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from ...results.names import UnknownNameError
from ...results.paper.beside import MeasuredColumn, beside_table, column_label
from ...results.paper.claims import ClaimLine, claims_table
from ...results.paper.html import paper_html
from ...results.paper.page import ArtefactPart, Difference, Figure, PaperPage, paper_latex, paper_markdown
from ...results.plots import draw
from ...results.plots.make import make_plots
from ...results.record import Record
from ...results.reference.load import Reference, load_reference
from ...results.reference.printed import MARKS, ReferenceTable
from ...results.store import RunStore
from ...results.tables.row import grouped
from ...results.tables.tables import Table
from .declarations import Artefact, Fact, Study
from .measured import MeasuredStudies, read_studies
from .studies import STUDIES
from .verdicts import claim_lines, judge_claims

_STAGES = ("train", "teacher", "distill", "finetune", "lora")


def write_paper(store: RunStore, artefacts: Sequence[Artefact], scale: str) -> Path:
    """Writes the artefacts into the folder `paper` of a run: paper.html, paper.md, paper.tex and `figures/`.

    Returns:
        The HTML page.

    Raises:
        StoreError: A file cannot be written.
    """
    page = make_page(store, artefacts, scale)
    folder = store.root / "paper"
    store.folder.make(folder / "figures")
    store.write_text(folder / "paper.md", paper_markdown(page))
    store.write_text(folder / "paper.tex", paper_latex(page))
    store.write_text(folder / "paper.html", paper_html(page))
    return folder / "paper.html"


def make_page(store: RunStore, artefacts: Sequence[Artefact], scale: str) -> PaperPage:
    """The artefacts as far as the run has records of them; figures are written into the folder `paper/figures`."""
    reference = load_reference()
    source = read_studies(store, scale)
    claims = _claims(source, reference)
    parts = tuple(_part(artefact, source, reference, claims) for artefact in artefacts)
    title = f"{reference.title}: reported beside measured, scale {scale}"
    return PaperPage(title, claims_table("Claims", claims), parts)


def judged_claims(store: RunStore, scale: str) -> list[ClaimLine]:
    """Every claim of the paper with its verdict from the records of a run."""
    return _claims(read_studies(store, scale), load_reference())


def _claims(source: MeasuredStudies, reference: Reference) -> list[ClaimLine]:
    return claim_lines(judge_claims(source.rows_on, source.scale, source.gap), reference)


def _part(
    artefact: Artefact, source: MeasuredStudies, reference: Reference, claims: Sequence[ClaimLine]
) -> ArtefactPart:
    own = [claim for claim in claims if claim.artefact == artefact.id]
    studies = [STUDIES[name] for name in artefact.studies]
    printed = _printed(reference, artefact.id)
    tables = tuple(_tables(artefact, studies, source, printed)) if artefact.has_table else ()
    figures = tuple(_figures(artefact, studies, source))
    gaps = [
        f"{study.name}, {column}: not measured at scale {source.scale}: {gap}"
        for study in studies
        for column in study.columns
        if (gap := source.gap(study, column))
    ]
    illustrations = (_illustration(study) for study in studies if source.scale in study.illustrates)
    records = [record for study in studies for record in source.of(study) if record.status == "ok"]
    of_the_paper = _table_notes(printed) if printed else _figure_notes(reference, artefact.id)
    notes = (artefact.note, *of_the_paper, *gaps, *illustrations, _unstated(artefact, records))
    return ArtefactPart(
        artefact.id,
        artefact.title,
        tables,
        tuple(_differences(artefact, studies, source)),
        claims_table("Claims", own) if own else None,
        figures,
        tuple(filter(None, notes)),
    )


def _table_notes(printed: ReferenceTable) -> Iterator[str]:
    """What is known of a printed table beside its numbers, and the numbers that are in print with other values."""
    yield printed.note
    yield from (f"{row.label}: {row.note}" for row in printed.rows if row.note)
    for each in printed.contradictions:
        column = printed.column(each.column)
        stated = ", ".join(f"{one.value:.{column.decimals}f} ({MARKS[one.mark]})" for one in each.stated)
        yield f"{each.row}, {column.label}: stated as {stated}. {each.note}"


def _figure_notes(reference: Reference, id: str) -> Iterator[str]:
    for figure in reference.figures:
        if id == f"figure-{figure.number}":
            note = f" {figure.note}" if figure.note else ""
            yield f"The paper's figure ({MARKS[figure.mark]}): {figure.shows} Its values are not known.{note}"


def _unstated(artefact: Artefact, records: Sequence[Record]) -> str:
    """What no source states of how the paper measured, with our settings in its place."""
    told = []
    for each in artefact.setup.unstated:
        found = {f"{key} {r.settings[key]}": None for r in records for key in each.settings if key in r.settings}
        told.append(f"{each.what} [here: {', '.join(found)}]" if found else each.what)
    return f"Not stated by any source: {'; '.join(told)}." if told else ""


def _illustration(study: Study) -> str:
    return f"{study.name} is an illustration: its budget is too small to carry a claim."


def _printed(reference: Reference, id: str) -> ReferenceTable | None:
    try:
        return reference.table(id)
    except UnknownNameError:
        return None


def _tables(
    artefact: Artefact, studies: Sequence[Study], source: MeasuredStudies, printed: ReferenceTable | None
) -> Iterator[Table]:
    """One table of all studies if each has columns of its own, else one for each study."""
    names = [column for study in studies for column in study.columns]
    together = [studies] if len(set(names)) == len(names) else [[study] for study in studies]
    for group in together:
        columns = [column for study in group for column in _columns(artefact, study, source)]
        models = [m for study in group if source.scale in study.scales for m in study.models_at(source.scale)]
        shown = [m for m in dict.fromkeys(models) if not artefact.models or m in artefact.models]
        title = ", ".join(study.name for study in group)
        yield beside_table(title, printed, columns, shown, group[0].recipe)


def _columns(artefact: Artefact, study: Study, source: MeasuredStudies) -> Iterator[MeasuredColumn]:
    for name in study.columns:
        own = source.rows_on(study, name)
        if not own:
            yield MeasuredColumn(name, "not measured", gap=source.gap(study, name))
        elif not artefact.metrics:
            main = [row for row in own if row.is_main and not row.at]
            yield MeasuredColumn(name, column_label(next((r for r in main if r.value is not None), main[0])), (*main,))
        for metric in artefact.metrics if own else ():
            for _, points in groupby((row for row in own if row.metric == metric), key=lambda row: row.at):
                found = tuple(points)
                yield MeasuredColumn(f"{metric} {found[0].point}".strip(), column_label(found[0]), found)


def _figures(artefact: Artefact, studies: Sequence[Study], source: MeasuredStudies) -> Iterator[Figure]:
    records = [record for study in studies for record in source.of(study) if record.status == "ok"]
    if not artefact.plots or not records:
        return
    folder = source.store.root / "paper" / "figures"
    source.store.folder.make(folder)
    with draw.plot_settings():
        for plot in make_plots(records, lambda record: source.store.kept_samples(record.cell_id)):
            if plot.kind in artefact.plots:
                name = f"{artefact.id}-{plot.name}"
                yield Figure(plot.title, name, draw.save(plot.figure, folder / name))


def _differences(artefact: Artefact, studies: Sequence[Study], source: MeasuredStudies) -> Iterator[Difference]:
    records = [record for study in studies for record in source.of(study) if record.status == "ok"]
    if not records:
        return
    ours = {
        "backbone": _each(_backbone(r) for r in records),
        "data": _each(r.data.id for r in records if r.data),
        "steps": _each(filter(None, map(_steps, records))),
        "hardware": _each(_hardware(r) for r in records),
    }
    for what, here in ours.items():
        fact: Fact = getattr(artefact.setup, what)
        verdict = "not known" if not fact.stated else "different"
        if fact.same_if and all(fact.same_if in text for text in here.split("; ")):
            verdict = "same"
        yield Difference(what, fact.stated, here, verdict)
    counts = [len({r.seed for r in own}) for own in grouped(records, lambda r: (r.task, r.model)).values()]
    yield Difference("seeds", "", " to ".join(map(str, sorted({min(counts), max(counts)}))), "not known")


def _each(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))


def _backbone(record: Record) -> str:
    size = next((m.value for m in record.metrics if m.name == "parameters" and m.value), None)
    return record.backbone if size is None else f"{record.backbone}, {size / 1e6:.2g}M parameters"


def _steps(record: Record) -> str:
    """The stages of a record's recipe, with their steps or epochs."""
    told = []
    for stage in _STAGES:
        epochs, steps = (record.settings.get(f"{stage}.{name}") for name in ("epochs", "steps"))
        if epochs:
            told.append(f"{stage} {epochs:g} epochs")
        elif steps:
            told.append(f"{stage} {steps:,} steps")
    return ", ".join(told)


def _hardware(record: Record) -> str:
    environment = record.environment
    return str(environment.get("gpu") if environment.get("device") == "cuda" else environment.get("cpu"))

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hedgebench.results.names import UnknownNameError
from hedgebench.results.plots.make import Drawing
from hedgebench.results.record import Failure, Metric, Record
from hedgebench.results.report.html import ReportContent, report_html
from hedgebench.results.report.sections import TaskText
from hedgebench.results.report.write import render, write_report
from hedgebench.results.store import RunStore
from hedgebench.results.tables.leaderboard import leaderboard_csv

MakeRecord = Callable[..., Record]
VOID = {"meta", "br", "link", "img", "input", "hr"}
ATTACK = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Checks that elements are closed in order; keeps identifiers and every element's name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def unpacked(text: str, part: str = "cells") -> Any:
    """What the page holds of its cells."""
    (packed,) = re.findall(rf'<script type="text/plain" id="packed-{part}">(.*?)</script>', text)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_the_report_is_well_formed_and_small_and_reaches_for_nothing(showcase: list[Record]) -> None:
    text = render(showcase, "html")
    assert len(text.encode()) < 2_000_000
    page = Page(text)
    assert len(unpacked(text)["cells"]) == len(showcase)
    assert page.names.count("figure") > 3
    assert not {"link", "img", "iframe"} & set(page.names)
    assert all(address.startswith("#") for address in page.addresses)  # no task has said which papers it cites
    assert len(set(page.ids)) == len(page.ids)


def test_the_policy_lets_the_pages_own_scripts_run_and_no_others(make_record: MakeRecord) -> None:
    text = render([make_record()], "html")
    scripts = re.findall(r'<script(?: type="module")?>(.*?)</script>', text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    rules = dict(rule.split(" ", 1) for rule in html.unescape(policy).split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"].split() == [f"'sha256-{digest}'" for digest in hashes]
    assert len(hashes) == 2
    assert "connect-src" not in rules


def test_whatever_a_record_says_is_escaped(make_record: MakeRecord) -> None:
    failure = Failure(ATTACK, ATTACK, ATTACK)
    hostile = [
        make_record(
            model,
            ATTACK,
            backbone=ATTACK,
            notes=(ATTACK,),
            settings={ATTACK: model},
            environment={ATTACK: ATTACK},
            error=failure,
        )
        for model in (ATTACK, ATTACK + "2")
    ]
    text = render(hostile, "html")
    assert ATTACK not in text
    assert text.count("<script") == render([make_record()], "html").count("<script")
    assert "&lt;script&gt;" in text
    Page(text)


def test_failures_and_notes_stand_at_the_top(make_record: MakeRecord) -> None:
    failed = make_record(
        "elu", status="oom", metrics=(), main_metric="perplexity", error=Failure("CudaError", "20 GiB", "tail")
    )
    text = render([make_record(notes=("fell back to torch",)), failed], "html")
    top = text[: text.index('<h2 id="section-1">wikitext2')]
    assert "elu on wikitext2, seed 0: OOM: CudaError: 20 GiB" in top
    assert "softmax on wikitext2: fell back to torch" in top


def test_the_usual_course_of_a_training_is_no_warning(make_record: MakeRecord) -> None:
    text = render([make_record(notes=("training stopped early after 400 steps, at validation loss 0.1",))], "html")
    assert "To know before reading on" not in text
    assert "How trainings went: 1 note" in text


def test_the_page_opens_with_sentences_a_picture_and_a_table(showcase: list[Record]) -> None:
    text = render(showcase, "html")
    top = text[text.index('<h2 id="found">') : text.index('<h2 id="section-1">')]
    assert "of softmax on glue/sst2" in top
    assert "hedgehog recovers 93.9% of softmax on wikitext2" in top
    assert top.count("<figure") == 1
    assert "Quality against cost" in top
    assert "<h4>All tasks</h4>" in top


def test_a_section_is_a_task_or_a_group_and_says_what_it_is(make_record: MakeRecord) -> None:
    accuracy = Metric("accuracy", 0.9, "1", True, 0.01, 100)
    records = [
        make_record(task="glue/sst2", metrics=(accuracy,), recipe="finetuned-conversion", backbone="bert-base"),
        make_record(task="glue/mrpc", metrics=(accuracy,), recipe="finetuned-conversion", backbone="bert-base"),
        make_record(task="wikitext2:stride=64", limit=10),
    ]
    tasks = {
        "glue/sst2": TaskText("Is a sentence positive?", "Socher et al.; arXiv 1804.07461", ("nyu-mll/glue/sst2@bcd",)),
        "wikitext2": TaskText("Perplexity on Wikipedia"),
    }
    text = report_html(ReportContent(records, tasks=tasks), [])
    assert re.findall(r'<h2 id="section-\d">(.*?)</h2>', text) == ["glue", "wikitext2:stride=64"]
    assert "<h3>bert-base fine-tuned with softmax, then converted, scale smoke</h3>" in text
    assert "<h3>gpt trained from scratch, scale smoke; partial: first 10 rows</h3>" in text
    assert "Is a sentence positive?" in text
    assert "Perplexity on Wikipedia." in text
    addresses = [address for address in Page(text).addresses if not address.startswith("#")]
    assert addresses == ["https://arxiv.org/abs/1804.07461", "https://huggingface.co/datasets/nyu-mll/glue"]


def test_plots_that_are_seen_at_once_get_their_room_first(make_record: MakeRecord) -> None:
    accuracy = Metric("accuracy", 0.9, "1", True, 0.01, 100)
    records = [make_record(task=task, metrics=(accuracy,)) for task in ("a", "b")]

    def shown(paths: int) -> list[str]:
        svg = f'<svg width="300pt">{"<path/>" * paths}</svg>'
        plots = [Drawing(kind, task, f"{kind} of {task}", svg) for task in "ab" for kind in ("size", "curves")]
        text = report_html(ReportContent(records), plots)
        found = re.findall(r'<figure role="group" aria-label="(.*?)"', text)
        assert (f"{4 - len(found)} more plots are left out" in text) == (len(found) < 4)
        return found

    assert shown(10_000) == ["curves of a", "size of a", "curves of b", "size of b"]
    assert shown(40_000) == ["curves of a", "curves of b"]


def test_tables_of_sweeps_are_folded_and_plots_are_not(showcase: list[Record]) -> None:
    text = render([record for record in showcase if record.task == "throughput"], "html")
    folded = text.index("The numbers behind the plots: 3 tables")
    first_table = text.index("<h4>throughput: prefill_ms")
    assert text.index("<figure") < folded < first_table < text.index("</details>", folded)
    assert "quality against" not in text


def test_a_cell_tells_the_kernel_the_data_and_the_settings(make_record: MakeRecord) -> None:
    text = json.dumps(unpacked(render([make_record()], "html")))
    for fact in ("evaluate", "chunk (torch)", "abc123", "f00d", "mirror", "train.lr", "2.13.0"):
        assert fact in text


def test_write_report_leaves_tables_plots_and_a_page(make_record: MakeRecord, tmp_path: Path) -> None:
    store = RunStore(tmp_path / "my-run")
    store.create()
    record = make_record()
    store.write_record(record)
    store.write_samples(record.cell_id, [{"row": i, "text": "x" * 1000} for i in range(9)])
    (store.cells / "broken.json").write_text("{")
    page = write_report(store)
    assert page == store.root / "report.html"
    text = page.read_text(encoding="utf-8")
    assert "<h1>my-run</h1>" in text
    assert "broken.json cannot be read and is left out" in text
    samples = unpacked(text, "samples")[record.cell_id]
    assert [row["row"] for row in samples] == ["0", "1", "2", "3", "4"]
    assert samples[0]["text"] == "x" * 399 + "…"
    assert (store.root / "leaderboard.csv").read_bytes().decode() == leaderboard_csv([make_record()])
    assert "perplexity" in (store.root / "leaderboard.md").read_text(encoding="utf-8")
    assert (store.root / "leaderboard.json").exists()
    assert {path.suffix for path in (store.root / "plots").iterdir()} == {".svg", ".png"}


def test_marks_and_ranks_are_paired_over_the_predictions_of_the_run(make_record: MakeRecord, tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    store.create()
    for model, wrong in (("softmax", range(80, 100)), ("elu", range(70, 100))):
        rows = [{"row": i, "correct": int(i not in wrong)} for i in range(100)]
        share = 1 - len(wrong) / 100
        metric = Metric("accuracy", share, "1", True, (share * (1 - share) / 99) ** 0.5, 100)
        record = make_record(model, "glue/sst2", metrics=(metric,))
        store.write_record(record)
        store.write_samples(record.cell_id, rows)
    page = write_report(store).read_text(encoding="utf-8")
    # Ten answers are lost and none is won: p = 0.002 paired, 0.10 by the two errors.
    assert '<td class="worse" data-order="0.7">' in page
    assert "Holm" in page
    assert "glue/sst2: paired over 100 documents" in page
    table = (store.root / "leaderboard.md").read_text(encoding="utf-8")
    assert "**0.800** ± 0.040 <sup>1</sup>" in table
    assert "glue/sst2: paired over 100 documents" in table


def test_a_run_without_results_has_a_report_too(tmp_path: Path) -> None:
    page = write_report(RunStore(tmp_path / "empty"))
    Page(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("format", "start"),
    [("md", "# Leaderboard"), ("csv", "model,"), ("latex", "% Needs"), ("json", "["), ("html", "<!doctype")],
)
def test_every_format_can_be_rendered(make_record: MakeRecord, format: str, start: str) -> None:
    assert render([make_record()], format).startswith(start)


def test_an_unknown_format_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown format 'htm'; did you mean html\? \(allowed: csv, html, json, latex, md\)"
    ):
        render([], "htm")

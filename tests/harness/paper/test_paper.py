"""Tests of `bench paper` from the command line: planning, running, rendering and listing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from hedgebench.harness.cli import main
from hedgebench.harness.paper import reproduce
from hedgebench.harness.paper.artefacts import ARTEFACTS
from hedgebench.harness.paper.claims import CLAIMS
from hedgebench.harness.paper.declarations import Study, StudyScale
from hedgebench.harness.paper.measured import read_gaps, write_gaps
from hedgebench.harness.paper.render import make_page
from hedgebench.harness.paper.reproduce import blind_teachers
from hedgebench.harness.paper.studies import STUDIES
from hedgebench.results.record import SCHEMA_VERSION, Failure, Metric, Record
from hedgebench.results.store import RunStore

Bench: TypeAlias = Callable[..., Any]

SETTINGS = {
    "task.vocab_size": "8",
    "task.length": "16",
    "task.train_samples": "64",
    "task.validation_samples": "16",
    "task.test_samples": "32",
    "train.steps": "2",
    "train.batch_size": "4",
    "backbone.width": "16",
}


@pytest.fixture
def tiny_recall(monkeypatch: pytest.MonkeyPatch) -> Study:
    """The study of recall with two models that are trained for two steps, at every scale."""
    scale = StudyScale(("associative_recall",), settings=SETTINGS, models=("softmax", "elu"))
    study = replace(STUDIES["recall"], scales=dict.fromkeys(("smoke", "small", "paper"), scale))
    monkeypatch.setitem(STUDIES, "recall", study)
    return study


@pytest.mark.usefixtures("tiny_recall")
def test_an_artefact_is_run_once_and_rendered(bench: Bench) -> None:
    first = bench("paper", "run", "--figure", "4", "--output", "out")
    assert first.code == 0
    assert "2 cells, 0 already done" in first.out
    again = bench("paper", "run", "--figure", "4", "--output", "out")
    assert again.code == 0
    assert "2 cells, 2 already done" in again.out
    page = Path("out/paper/paper.html").read_text(encoding="utf-8")
    assert "Figure 4" in page
    assert "<svg" in page
    figure = "figure-4-entropy-associative_recall-gpt-scratch-smoke"
    assert {path.name for path in Path("out/paper/figures").iterdir()} == {f"{figure}.png", f"{figure}.svg"}
    assert f"figures/{figure}.svg" in Path("out/paper/paper.md").read_text(encoding="utf-8")
    assert f"figures/{figure}.png" in Path("out/paper/paper.tex").read_text(encoding="utf-8")


@pytest.mark.usefixtures("tiny_recall")
def test_the_list_counts_cells_that_are_done_and_their_hours(bench: Bench) -> None:
    assert json.loads(bench("paper", "list", "figure-4", "--output", "out", "--json").out)[0] == {
        "artefact": "figure-4", "title": "Recall against the entropy of attention", "studies": ["recall"],
        "cells": 2, "done": 0, "hours taken": "0.00", "hours left": "not known", "from": {}, "gaps": 0,
    }  # fmt: skip
    assert bench("paper", "run", "figure-4", "--output", "out", "--quiet").code == 0
    (row,) = json.loads(bench("paper", "list", "figure-4", "--output", "out", "--json").out)
    assert (row["done"], row["hours left"]) == (2, "0.00")


def test_at_scale_paper_the_list_counts_gpu_hours_and_memory_of_cells_that_cannot_run_here(bench: Bench) -> None:
    (row,) = json.loads(bench("paper", "list", "table-7", "--scale", "paper", "--json").out)
    assert (row["cells"], row["gaps"]) == (0, 1)
    assert float(row["GPU hours"]) > 10
    assert float(row["GiB"]) > 10
    shown = " ".join(bench("paper", "list", "table-7", "figure-6", "--scale", "paper").out.split())
    assert "counted, not measured" in shown
    assert "30% of an H100" in shown
    assert "not counted" in shown


@pytest.mark.usefixtures("tiny_recall")
def test_claims_are_printed_as_text_markdown_and_json_from_the_records(bench: Bench) -> None:
    assert bench("paper", "run", "figure-4", "--output", "out", "--quiet").code == 0
    chosen = ("paper", "claims", "--table", "2", "--output", "out")
    lines = json.loads(bench(*chosen, "--json").out)
    assert [line["id"] for line in lines] == ["recall-prior-fail", "recall-exp"]
    assert [line["verdict"] for line in lines] == ["not judged", "not judged"]
    assert lines[0]["note"] == "hedgehog has 0 results on associative_recall"
    assert "not judged: hedgehog has 0 results on associative_recall" in " ".join(bench(*chosen).out.split())
    assert bench(*chosen, "--format", "md").out.startswith("| claim | verdict | reported |")
    assert len(json.loads(bench("paper", "claims", "--output", "out", "--json").out)) == len(CLAIMS)


def test_a_table_without_any_record_says_what_is_missing(bench: Bench) -> None:
    RunStore(Path("out")).create()
    assert bench("paper", "render", "table-6", "--output", "out").code == 0
    text = Path("out/paper/paper.md").read_text(encoding="utf-8")
    assert "| Hedgehog: paper | 37.15 (T) |" in text
    assert "| hedgehog: here | not measured |" in text
    assert "lra, lra/image: not measured at scale smoke: it has not run yet" in text
    assert "- Sinkhorn: No average is given" in text
    assert "- Sinkhorn, Avg: stated as 51.39 (P), 51.29 (P), 51.48 (D). " in text


def test_a_figure_says_what_is_known_of_the_papers(bench: Bench) -> None:
    RunStore(Path("out")).create()
    assert bench("paper", "render", "figure-6", "--output", "out").code == 0
    text = Path("out/paper/paper.md").read_text(encoding="utf-8")
    assert "- The paper's figure (U): Time and memory against sequence length" in text
    assert "Device, batch, heads and largest length were not found either." in text


def test_a_data_set_that_a_study_names_is_a_gap_where_it_is_absent(bench: Bench) -> None:
    (row,) = json.loads(bench("paper", "list", "table-9", "--scale", "small", "--json").out)
    assert row["cells"] == 0
    assert bench("paper", "run", "table-9", "--scale", "small", "--output", "out").code == 0
    (reason,) = read_gaps(RunStore(Path("out")))["images"].values()
    assert "local/mnist-10k (default) is not available" in reason


def test_absent_data_is_a_gap_with_its_reason_and_no_failure(bench: Bench) -> None:
    ended = bench("paper", "run", "table-8", "--output", "out")
    assert ended.code == 0
    assert "glue/mnli left out" in ended.out
    assert "is not available" in read_gaps(RunStore(Path("out")))["glue"]["glue/mnli"]
    assert "glue, glue/mnli: not measured at scale smoke" in Path("out/paper/paper.md").read_text(encoding="utf-8")


def test_gaps_of_one_study_leave_those_of_others(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    store.create()
    write_gaps(store, {"a": {"x": "one"}})
    write_gaps(store, {"b": {"y": "two"}})
    write_gaps(store, {"a": {}})
    assert read_gaps(store) == {"a": {}, "b": {"y": "two"}}


@pytest.mark.usefixtures("tiny_recall")
def test_students_of_a_teacher_that_did_not_learn_do_not_run(bench: Bench) -> None:
    ended = bench("paper", "run", "figure-4", "--scale", "small", "--output", "out")
    assert ended.code == 0
    assert ended.out.count("report: ") == 1
    assert "its students do not run, because softmax did not learn: accuracy" in " ".join(ended.out.split())
    assert [record.model for record in RunStore(Path("out")).records().records] == ["softmax"]
    page = Path("out/paper/paper.md").read_text(encoding="utf-8")
    assert "not measured at scale small: no student ran: softmax did not learn: accuracy" in page


def test_a_teacher_that_failed_or_is_at_chance_is_blind(tmp_path: Path) -> None:
    chance = Metric("chance", 0.25, "1", None, None, 100)
    records = [
        Record(
            SCHEMA_VERSION, "run", task, "softmax", "gpt", task, "scratch", "small", 0, "ok", "accuracy",
            (Metric("accuracy", value, "1", True, 0.02, 100), chance), {}, {}, (), None, {},
        )
        for task, value in (("good", 0.9), ("poor", 0.26))
    ]  # fmt: skip
    records.append(replace(records[0], cell_id="bad", task="bad", status="error", metrics=(), error=Failure("E", "no")))
    store = RunStore(tmp_path / "run")
    store.create()
    for record in records:
        store.write_record(record)
    found = blind_teachers(store, [record.cell_id for record in records])
    assert found == {
        ("gpt", "poor", "scratch"): "softmax did not learn: accuracy 0.260 ± 0.020, chance 0.25",
        ("gpt", "bad", "scratch"): "softmax has no result: no",
    }


def test_models_with_fewer_seeds_than_others_are_told(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    store.create()
    for model, seed in (("softmax", 0), ("softmax", 1), ("softmax", 2), ("hedgehog", 0)):
        store.write_record(Record(
            SCHEMA_VERSION, "run", f"{model}-{seed}", model, "gpt", "wikitext2", "scratch", "small", seed, "ok",
            "perplexity", (Metric("perplexity", 20.0 + seed, "1", False, 0.1, 60),), {}, {}, (), None, {"cpu": "one"},
        ))  # fmt: skip
    (part,) = make_page(store, [ARTEFACTS["table-7"]], "small").parts
    assert {each.what: each.here for each in part.differences}["seeds"] == "1 to 3"
    assert {each.what: each.verdict for each in part.differences} == {
        **dict.fromkeys(("backbone", "data"), "different"),
        **dict.fromkeys(("steps", "hardware", "seeds"), "not known"),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--table", "99"], "unknown artefact 'table-99'; did you mean table-9"),
        (["list", "tabel-7"], "unknown artefact 'tabel-7'; did you mean table-7"),
        (["render", "--output", "nowhere"], "'nowhere' is not a run's folder"),
        (["claims", "--output", "nowhere"], "'nowhere' is not a run's folder"),
        (["list", "--format", "md"], "bench paper list has no --format"),
        (
            ["render", "--json"],
            "bench paper render has no --json; allowed with bench paper list and bench paper claims",
        ),
    ],
)
def test_bad_input_is_exit_code_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["paper", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_all_artefacts_are_chosen_if_none_is_named() -> None:
    assert len(reproduce.choose_artefacts(())) == 19

"""Summarisation from the command line to the texts: a tiny Llama converted, a model from scratch, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hedgebench.harness.commands.reporting import rescore
from hedgebench.harness.config import make_config
from hedgebench.harness.plan import make_plan, make_sources
from hedgebench.harness.running.job import CellJob
from hedgebench.harness.running.worker import run_job
from hedgebench.results.record import Record
from hedgebench.results.store import RunStore
from hedgebench.tasks.base import INPUT, Row
from hedgebench.tasks.summarization.rouge import KINDS

from ...adapters.tiny_models import save_tiny
from ..conftest import Finished

Bench = Callable[..., Finished]
NOTES = "summarization:dataset=org/notes:source=note:target=gist"
NAMES = ("Ann", "Bob", "Eve")
SMALL = {
    "context_length": 96,
    "max_new_tokens": 12,
    "train_rows": 16,
    "test_rows": 5,
    "batch_size": 3,
    **{f"{stage}.steps": 2 for stage in ("distill", "lora")},
}


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """SAMSum of 24 rows, `org/notes` of the same, and a tiny Llama and BERT."""
    for repo, config, columns in (
        ("knkarthick/samsum", "samsum", ("dialogue", "summary")),
        ("org/notes", "default", ("note", "gist")),
    ):
        folder = tmp_path / "mirror" / "datasets" / repo / config
        folder.mkdir(parents=True)
        for split, rows in (("train", 24), ("validation", 4), ("test", 8)):
            texts = [f"{NAMES[i % 3]}: {'so ' * (i % 7)}hi" for i in range(rows)]
            table = dict(zip(columns, (texts, [f"{NAMES[i % 3]} greets." for i in range(rows)]), strict=True))
            pd.DataFrame({"id": [f"{split}{i}" for i in range(rows)], **table}).to_parquet(
                folder / f"{split}-00000-of-00001.parquet"
            )
    save_tiny("llama", tmp_path / "llama")
    save_tiny("bert", tmp_path / "bert")
    return tmp_path / "mirror"


def run(bench: Bench, mirror: Path, tasks: str, *more: object, backbone: str) -> tuple[Finished, Record]:
    """One cell in a process of its own."""
    done = bench("run", "--tasks", tasks, "--backbone", backbone, "--mirror", mirror, "--output", "out", *more)
    (record,) = RunStore(Path("out")).records().records
    return done, record


def run_here(mirror: Path, models: str, tasks: str, **changes: Any) -> Iterator[tuple[Record, list[Row]]]:
    """Cells of the tiny Llama, or of another backbone, measured in this process, with their rows."""
    root = mirror.parent
    config = make_config(
        {
            "models": tuple(models.split(",")),
            "tasks": tuple(tasks.split(",")),
            "backbone": f"hf:{root / 'llama'}",
            "mirror": str(mirror),
            "offline": True,
            "log_samples": True,
            "set": {key: str(value) for key, value in SMALL.items()},
            **changes,
        }
    )
    for planned in make_plan(config):
        outcome = run_job(CellJob(planned, config, root, make_sources(config), threads=1), lambda _: None)
        yield outcome.record, outcome.rows


def settings(**values: object) -> list[str]:
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def test_converted_models_write_summaries_and_say_how_sure_their_rouge_is(mirror: Path) -> None:
    for record, rows in run_here(mirror, "softmax,hedgehog", "samsum"):
        assert record.status == "ok", record.error
        assert (record.recipe, record.main_metric) == ("pretrained-conversion-lora", "rouge1")
        metrics = {metric.name: metric for metric in record.metrics}
        assert all(metrics[kind].n == 5 and metrics[kind].stderr is not None for kind in KINDS)
        ends = [metrics[name].value or 0.0 for name in ("rouge1_low95", "rouge1", "rouge1_high95")]
        assert ends == sorted(ends)
        assert len(rows) == 5
        assert all(row["reference"].endswith(" greets.") and row["generated_tokens"] <= 12 for row in rows)
        assert all(row[INPUT].endswith("\n\nSummary:\n") for row in rows)
        assert {kernel.phase for kernel in record.kernels} >= {"train", "prefill", "decode"}
        assert record.settings["task.prompt"] == "Summarize this dialogue:\n{source}\n\nSummary:\n"
        assert record.data is not None
        assert record.data.details["tokenizer"] == f"hf:{mirror.parent / 'llama'}"
        if record.model == "hedgehog":
            assert (metrics["attention_kl_distilled"].value or 1) < (metrics["attention_kl_swapped"].value or 0)


def test_a_data_set_in_the_task_s_name_is_scored_again_from_the_texts_alone(mirror: Path, tmp_path: Path) -> None:
    ((record, rows),) = run_here(mirror, "t2r", "summarization:target=gist:source=note:dataset=org/notes")
    assert record.status == "ok", record.error
    assert record.task == NOTES
    assert record.settings["task.source"] == "note"
    assert [row["reference"] for row in rows] == [f"{NAMES[row['row'] % 3]} greets." for row in rows]
    store = RunStore(tmp_path / "run")
    store.create()
    store.write_samples(record.cell_id, [{key: row[key] for key in row if key not in (INPUT, *KINDS)} for row in rows])
    again = rescore(replace(record, metrics=()), store)
    scored = {metric.name for metric in again.metrics}
    assert {*KINDS, "finished", "truncated", "generated_tokens"} <= scored
    assert again.metrics == tuple(metric for metric in record.metrics if metric.name in scored)


def test_paper_scale_has_the_paper_s_hyper_parameters(mirror: Path) -> None:
    where = f"hf:{mirror.parent / 'llama'}"
    values = {"models": ("t2r", "hedgehog"), "tasks": ("samsum",), "backbone": where, "mirror": str(mirror)}
    for planned in make_plan(make_config({**values, "scale": "paper"})):
        assert planned.cell.recipe == "pretrained-conversion-lora"
        distill, lora, task = (planned.cell.settings[group] for group in ("distill", "lora", "task"))
        assert (distill["epochs"], lora["epochs"], lora["rank"], lora["alpha"]) == (2.0, 2.0, 8, 16)
        assert (task["train_rows"], task["test_rows"], task["temperature"]) == (None, None, 0.0)


def test_a_model_from_scratch_learns_a_tokenizer_of_its_own(mirror: Path) -> None:
    sizes = {key: str(value) for key, value in SMALL.items() if "." not in key}
    own = {**sizes, "tokenizer": "bpe:300", "train.steps": "2"}
    ((record, rows),) = run_here(mirror, "hedgehog", "samsum", backbone="gpt", limit=2, set=own)
    assert record.status == "ok", record.error
    assert (record.recipe, record.limit, len(rows)) == ("scratch", 2, 2)
    assert record.data is not None
    assert record.data.details["tokenizer"] == "bpe:300"


def test_a_model_that_cannot_generate_is_unsupported_with_the_reason(bench: Bench, mirror: Path) -> None:
    done, record = run(bench, mirror, "samsum", "--models", "softmax", backbone=f"hf:{mirror.parent / 'bert'}")
    assert done.code == 3
    assert record.status == "unsupported"
    assert record.error is not None
    assert "cannot do what samsum needs: generate, language_model" in record.error.message


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("summarization", "task summarization: dataset is not set"),
        (NOTES.replace("=note", "=nota"), "org/notes in split train, given as source, 'nota'; did you mean note"),
        (NOTES.replace("target", "targt"), "unknown setting of task summarization 'targt'; did you mean target"),
        ("samsum:dataset=org/notes", "unknown setting of task samsum 'dataset'"),
        (NOTES + ":revision=main", "revision is 'main'; it takes a commit"),
    ],
)
def test_what_names_no_data_is_refused_before_anything_runs(
    bench: Bench, mirror: Path, tasks: str, message: str
) -> None:
    done = bench("run", "--models", "softmax", "--tasks", tasks, "--backbone", "gpt", "--mirror", mirror)
    assert done.code == 2
    assert message in done.err


def test_settings_may_stand_apart_from_the_task_s_name(bench: Bench, mirror: Path) -> None:
    names = settings(dataset="org/notes", source="note", target="nothing")
    done = bench(
        "run", "--models", "softmax", "--tasks", "summarization", "--mirror", mirror, "--backbone", "gpt", *names
    )
    assert done.code == 2
    assert "given as target, 'nothing'; did you mean note? (allowed: gist, id, note)" in done.err


def test_missing_data_are_told_before_anything_runs(bench: Bench, mirror: Path) -> None:
    tasks = NOTES.replace("org/notes", "org/other")
    done = bench("run", "--models", "softmax", "--tasks", tasks, "--backbone", "gpt", "--mirror", mirror)
    assert done.code == 2
    assert "org/other (default) is not available" in done.err
    assert "did you mean org/notes" in done.err


def test_the_listing_names_the_data_that_is_needed(bench: Bench) -> None:
    rows: dict[str, dict[str, Any]] = {row["task"]: row for row in json.loads(bench("list", "tasks", "--json").out)}
    assert rows["samsum"]["data"] == ["knkarthick/samsum"]
    assert "dataset=ORG/NAME" in rows["summarization"]["summary"]

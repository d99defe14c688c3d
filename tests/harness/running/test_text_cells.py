"""Cells that read text, from a mirror to the record: the rows are those of the fingerprint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hedgebench.harness.config import make_config
from hedgebench.harness.plan import make_plan, make_sources
from hedgebench.harness.running.job import CellJob
from hedgebench.harness.running.worker import run_job
from hedgebench.results.record import Record

from ...adapters.tiny_models import save_tiny

SETTINGS = {"context_length": 32, "train_bytes": 0, "batch_size": 2}


def write_articles(mirror: Path, texts: Sequence[str]) -> Path:
    """The test split of WikiText-2, an article for each text, always with the same time of modification."""
    folder = mirror / "datasets" / "Salesforce" / "wikitext" / "wikitext-2-v1"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for text in texts for row in ("", f" = {text.split()[0]} = \n", "", f" {text} \n")]
    file = folder / "test-00000-of-00001.parquet"
    pd.DataFrame({"text": rows}).to_parquet(file)
    os.utime(file, ns=(10**18, 10**18))
    return file


def planned(root: Path, **changes: Any) -> CellJob:
    """One cell on the checkpoint in `root/llama` and the data in `root/mirror`, as a run plans it."""
    config = make_config(
        {
            "models": ("softmax",),
            "tasks": ("wikitext2",),
            "backbone": f"hf:{root / 'llama'}",
            "recipe": "zero-shot",
            "mirror": str(root / "mirror"),
            "offline": True,
            "set": {key: str(value) for key, value in SETTINGS.items()},
            **changes,
        }
    )
    sources = make_sources(config)
    (cell,) = make_plan(config)
    return CellJob(cell, config, root / "out", sources, threads=1)


def measured(job: CellJob) -> Record:
    """The record of a cell, measured in this process."""
    return run_job(job, lambda message: None).record


def metric(record: Record, name: str) -> float:
    """A number of a record."""
    assert record.status == "ok", record.error
    (value,) = [metric.value for metric in record.metrics if metric.name == name]
    assert value is not None
    return value


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a tiny Llama and a test split of two articles."""
    save_tiny("llama", tmp_path / "llama")
    write_articles(tmp_path / "mirror", ["cats sit on mats", "dogs ran far"])
    return tmp_path


def test_another_file_of_the_same_path_and_time_gives_its_own_rows(root: Path) -> None:
    first = planned(root)
    assert metric(measured(first), "tokens") == len(" = cats = \n cats sit on mats \n = dogs = \n dogs ran far \n")
    write_articles(root / "mirror", ["cats sit on mats", "dogs ran farther"])
    second = planned(root)
    assert second.cell.key != first.cell.key
    assert metric(measured(second), "tokens") == len(" = cats = \n cats sit on mats \n = dogs = \n dogs ran farther \n")


def test_data_that_change_after_the_plan_are_an_error(root: Path) -> None:
    job = planned(root)
    write_articles(root / "mirror", ["cats sit on mats"])
    record = measured(job)
    assert record.status == "error"
    assert record.error is not None
    assert "changed while the run went on" in record.error.message

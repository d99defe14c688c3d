"""Tests of harness/paper/measured.py: which records are a study's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hedgebench.harness.paper.measured import MeasuredStudies
from hedgebench.harness.paper.studies import STUDIES
from hedgebench.results.record import SCHEMA_VERSION, Metric, Record, Scalar
from hedgebench.results.store import RunStore


def record(limit: int | None = None, **settings: Scalar) -> Record:
    """A record of CoLA, converted; a setting's name has `_` for its first dot."""
    named = {name.replace("_", ".", 1): value for name, value in settings.items()}
    return Record(
        SCHEMA_VERSION, "run", f"{limit}-{named}", "hedgehog", "minilm-l6", "glue/cola", "finetuned-conversion",
        "small", 0, "ok", "matthews", (Metric("matthews", 0.2, "1", True, 0.03, 1043),), named, {}, (), None, {}, limit,
    )  # fmt: skip


def of(name: str, *records: Record) -> list[Record]:
    return MeasuredStudies(RunStore(Path("run")), "small", records, {}).of(STUDIES[name])


def test_studies_share_the_records_of_a_task_unless_they_give_it_other_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, part = record(task_train_rows=10_000), record(task_train_rows=3_000)
    assert of("cola", whole) == of("glue", whole) == [whole]
    glue = STUDIES["glue"]
    small = replace(glue.scales["small"], settings={**glue.scales["small"].settings, "task.train_rows": "3000"})
    monkeypatch.setitem(STUDIES, "glue", replace(glue, scales={**glue.scales, "small": small}))
    assert of("cola", whole, part) == [whole]
    assert of("glue", whole, part) == [part]


def test_records_with_other_settings_than_a_study_declares_are_not_its_own() -> None:
    assert of("cola", record(teacher_lr=1e-4, teacher_epochs=3.0, distill_steps=125)) != []
    assert of("cola", record(teacher_lr=1e-5)) == []


def test_a_part_of_the_data_carries_no_claim() -> None:
    assert of("cola", record(limit=10)) == []

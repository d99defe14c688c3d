"""What a run shows: plain lines where there is no terminal, no colour with NO_COLOR, failures alone when quiet."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from hedgebench.harness.cell import Cell
from hedgebench.harness.running.job import CellJob
from hedgebench.harness.running.progress import RunDisplay, describe, reason
from hedgebench.results.record import Failure, Metric, Record

MakeRecord = Callable[..., Record]


@pytest.fixture
def make_record(make_job: Callable[..., CellJob], naughty: object) -> MakeRecord:
    job = make_job()

    def make(**changes: Any) -> Record:
        failed = job.record("error", Failure("ValueError", "first line\nsecond line"))
        return replace(failed, **changes)

    return make


def ok(make_record: MakeRecord, **changes: Any) -> Record:
    metric = Metric("accuracy", 0.51234, "1", True, 0.0123, 8)
    return make_record(status="ok", error=None, metrics=(replace(metric, **changes),))


def shown(
    record: Record, terminal: bool = False, quiet: bool = False, messages: tuple[dict[str, Any], ...] = ()
) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=120)
    with RunDisplay(console, total=3, quiet=quiet) as display:
        display.started("key", "softmax / gpt")
        for message in messages:
            display.update("key", message)
        display._progress.refresh()
        display.finished("key", "softmax / gpt", record)
    return text.getvalue()


def test_a_pipe_gets_one_plain_line_for_each_cell(make_record: MakeRecord) -> None:
    text = shown(ok(make_record), messages=({"phase": "load"},))
    assert text == "[1/3] softmax / gpt: accuracy 0.5123 ± 0.012 (0.0 s)\n"


def test_a_terminal_gets_bars_with_phase_step_and_loss(make_record: MakeRecord) -> None:
    text = shown(ok(make_record), True, messages=({"phase": "train", "done": 5, "total": 60, "loss": 1.25},))
    assert "train 5/60 loss 1.250" in text
    assert "\x1b[" in text


def test_no_color_is_honoured_on_a_terminal(make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = shown(ok(make_record), True)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = shown(ok(make_record), True)
    assert any(f"\x1b[{code}" in coloured for code in ("3", "38;", "1;3"))
    assert not [part for part in plain.split("\x1b[")[1:] if part.split("m")[0].startswith(("3", "38", "9"))]


def test_quiet_shows_failures_alone(make_record: MakeRecord) -> None:
    assert shown(ok(make_record), quiet=True) == ""
    assert shown(ok(make_record), terminal=True, quiet=True) == ""
    assert shown(make_record(), quiet=True) == "[1/3] softmax / gpt: error: first line (0.0 s)\n"


def test_a_cell_that_never_started_can_be_told_of(make_record: MakeRecord) -> None:
    text = io.StringIO()
    with RunDisplay(Console(file=text, width=120), total=1, quiet=False) as display:
        display.update("unknown", {"phase": "load"})
        display.finished("unknown", "title", make_record())
    assert text.getvalue() == "[1/1] title: error: first line (0.0 s)\n"


def test_names_with_brackets_are_no_markup(make_record: MakeRecord) -> None:
    text = shown(make_record(error=Failure("ValueError", "[red]not a colour[/red] :smile:")))
    assert "[red]not a colour[/red] :smile:" in text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "accuracy 0.5123 ± 0.012"),
        ({"stderr": None}, "accuracy 0.5123"),
        ({"unit": "ms", "at": {"seq_len": 512}}, "accuracy 0.5123 ± 0.012 ms at seq_len=512"),
        ({"value": None}, "no accuracy"),
        ({"name": "other"}, "no accuracy"),
    ],
)
def test_a_result_is_its_main_metric(make_record: MakeRecord, changes: dict[str, Any], text: str) -> None:
    assert describe(ok(make_record, **changes)) == text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Failure("MemoryError", ""), "MemoryError"),
        (Failure("AssertionError", " \n "), "AssertionError"),
        (Failure("ValueError", "\nlate"), "late"),
        (None, "no reason was given"),
    ],
)
def test_a_failure_without_a_message_is_told_by_its_type(
    make_record: MakeRecord, error: Failure | None, text: str
) -> None:
    record = make_record(error=error)
    assert reason(record) == text
    assert describe(record) == f"error: {text}"


def test_the_title_of_a_cell_names_model_backbone_task_and_seed(make_cell: Callable[..., Cell]) -> None:
    assert make_cell(seed=3).title == "softmax / gpt / naughty / seed 3"

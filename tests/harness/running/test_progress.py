"""What a run shows: plain lines where there is no terminal, no colour with NO_COLOR, failures alone when quiet."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from hedgebench.harness.cell import Cell
from hedgebench.harness.running.job import CellJob
from hedgebench.harness.running.progress import CellProgress, RunDisplay, describe, duration, reason
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
    record: Record,
    terminal: bool = False,
    quiet: bool = False,
    messages: tuple[dict[str, Any], ...] = (),
    width: int = 120,
) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=width)
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


DISTILL = ({"phase": "distill", "done": 5, "total": 60, "unit": "it", "loss": 1.25},)


@pytest.mark.parametrize("messages", [(), ({"phase": "load"},), DISTILL])
def test_a_terminal_of_80_columns_gets_bars_with_all_that_is_known(
    make_record: MakeRecord, messages: tuple[dict[str, Any], ...]
) -> None:
    text = shown(ok(make_record), True, messages=messages, width=80)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n").splitlines()
    drawn = [line for line in lines if line.startswith("softmax / gpt ")]
    assert drawn
    assert {len(line) for line in drawn} == {80}
    told = messages[0] if messages else {"phase": "starting"}
    assert told["phase"] in drawn[-1]
    assert ("5/60" in drawn[-1]) == ("done" in told)


def cell_after(*messages: tuple[float, dict[str, Any]]) -> CellProgress:
    """The progress of a cell that began at 0 s, after messages at some seconds."""
    cell = CellProgress(3, "hedgehog / samsum", 0.0)
    for now_s, message in messages:
        cell.take(message, now_s)
    return cell


def test_a_line_has_count_loss_rate_and_time_left() -> None:
    step = {"phase": "distill", "total": 400, "unit": "it", "loss": 0.3125}
    cell = cell_after((10, {**step, "done": 20}), (60, {**step, "done": 120}))
    assert cell.line(12, 60) == "[3/12] hedgehog / samsum: distill 120/400, loss 0.312, 2 it/s, about 2 min left"


@pytest.mark.parametrize(
    ("messages", "line"),
    [
        ([(5, {"phase": "load"})], "load, for 2 min"),
        ([(0, {"phase": "predict", "done": 64, "total": None, "unit": "rows"})], "predict 64"),
        (
            [(s, {"phase": "predict", "done": 64 * s, "total": None, "unit": "rows"}) for s in (1, 2)],
            "predict 128, 64 rows/s",
        ),
        (
            [
                (s, {"phase": "points", "doing": "prefill 8k", "done": s // 30, "total": 9, "unit": "points"})
                for s in (0, 30)
            ],
            "prefill 8k 1/9, 30 s/point, about 4 min left",
        ),
        (
            [(s, {"phase": "predict", "done": 2 * s, "total": 3, "unit": "rows"}) for s in (1, 2)],
            "predict 4, 2 rows/s",
        ),
    ],
)
def test_a_line_says_what_is_known(messages: list[tuple[float, dict[str, Any]]], line: str) -> None:
    assert cell_after(*messages).line(12, 125) == f"[3/12] hedgehog / samsum: {line}"


def test_the_rate_of_a_phase_is_its_own() -> None:
    train = {"phase": "train", "total": 100, "unit": "it", "loss": 1.0}
    cell = cell_after((0, {**train, "done": 1}), (1, {**train, "done": 100}))
    assert cell.rate == "99 it/s"
    cell.take({"phase": "predict", "done": 1, "total": 10, "unit": "rows"}, 2)
    assert (cell.rate, cell.left) == ("", "")


def test_where_there_is_no_terminal_a_silent_cell_is_told_of_again_and_again() -> None:
    text = io.StringIO()
    with RunDisplay(Console(file=text, width=80), total=3, quiet=False, line_every_s=0.05) as display:
        display.started("key", "softmax / stdlib")
        display.update("key", {"phase": "load"})
        end_s = time.monotonic() + 5
        while text.getvalue().count("[1/3] softmax / stdlib: load, for 0 s\n") < 2 and time.monotonic() < end_s:
            time.sleep(0.01)
    assert text.getvalue().count("[1/3] softmax / stdlib: load, for 0 s\n") >= 2


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3570, "1 h 0 min"), (7500, "2 h 5 min")]
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_no_color_is_honoured_on_a_terminal(make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = shown(ok(make_record), True)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = shown(ok(make_record), True)
    assert any(f"\x1b[{code}" in coloured for code in ("3", "9", "38;", "1;3"))
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

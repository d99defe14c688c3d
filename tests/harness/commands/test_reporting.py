"""Runs are read back, merged and scored anew without any model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hedgebench.harness.commands.reporting import load_content, load_runs, rescore, rescore_runs
from hedgebench.results.names import UsageError
from hedgebench.results.record import to_json
from hedgebench.results.store import RunStore, StoreError

Bench = Callable[..., Any]


def test_scoring_anew_gives_identical_metrics(finished: RunStore) -> None:
    for record in finished.records().records:
        assert to_json(rescore(record, finished)) == to_json(record)


def test_scoring_anew_follows_the_predictions(finished: RunStore, bench: Bench) -> None:
    before = finished.records().records
    for record in before:
        rows = [{**row, "correct": True} for row in finished.read_samples(record.cell_id)]
        finished.write_samples(record.cell_id, rows)
    assert bench("report", "--rescore", "out", "--format", "csv").code == 0
    for old, new in zip(before, finished.records().records, strict=True):
        assert [m.value for m in new.metrics if m.name == "accuracy"] == [1.0]
        assert [m.name for m in new.metrics] == [m.name for m in old.metrics]
        assert [m for m in new.metrics if m.name == "parameters"] == [m for m in old.metrics if m.name == "parameters"]
    assert json.loads(Path("out/leaderboard.json").read_text(encoding="utf-8"))[0]["value"] == 1.0


def test_a_cell_without_predictions_keeps_its_metrics_and_the_others_are_scored(finished: RunStore) -> None:
    lost, kept = finished.records().records
    next(finished.samples.glob(f"{lost.cell_id}*")).unlink()
    finished.write_samples(kept.cell_id, [{**row, "correct": True} for row in finished.read_samples(kept.cell_id)])
    with pytest.raises(UsageError, match=rf"\n{lost.model} on {lost.task}, seed 0: cannot read the samples of cell"):
        rescore_runs([finished.root])
    after = {record.cell_id: record for record in finished.records().records}
    assert to_json(after[lost.cell_id]) == to_json(lost)
    assert [m.value for m in after[kept.cell_id].metrics if m.name == "accuracy"] == [1.0]


def test_scoring_anew_keeps_out_of_a_run_under_way(finished: RunStore) -> None:
    before = {path.name: path.read_bytes() for path in finished.cells.iterdir()}
    with finished.held(), pytest.raises(StoreError, match="is running in"):
        rescore_runs([finished.root])
    assert {path.name: path.read_bytes() for path in finished.cells.iterdir()} == before


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"is not a run's folder: it has no folder cells/"):
        load_runs([tmp_path])


def test_a_corrupt_cell_is_left_out_and_told(finished: RunStore) -> None:
    broken = next(finished.cells.iterdir())
    broken.write_text("{", encoding="utf-8")
    records, messages = load_runs([finished.root])
    assert len(records) == 1
    assert len(messages) == 1
    assert messages[0].startswith(f"corrupt file left out: {broken}: it is not JSON")


def test_the_later_of_two_runs_wins(finished: RunStore) -> None:
    later = RunStore(Path("later"))
    later.create()
    record = finished.records().records[0]
    later.write_record(replace(record, run_id="later"))
    records, messages = load_runs([finished.root, later.root])
    assert sorted(r.run_id for r in records) == ["later", "out"]
    assert len(messages) == 1


def test_without_a_format_a_report_is_what_a_run_ends_with(finished: RunStore, bench: Bench) -> None:
    short, long = bench("report", "out"), bench("report", "out", "--details")
    assert (short.code, long.code) == (0, 0)
    assert "associative_recall\n" in short.out
    assert "| model |" not in short.out
    assert long.out.endswith(short.out)
    assert len(long.out) > len(short.out)
    refused = bench("report", "out", "--details", "--format", "csv")
    assert (refused.code, "--details prints every table" in refused.err) == (2, True)
    for flags, message in ((("--details", "--serve"), "--serve has its own"), (("--trust-remote-code",), "--rescore")):
        refused = bench("report", "out", *flags)
        assert (refused.code, message in refused.err) == (2, True)


@pytest.mark.parametrize("format", ["md", "csv", "latex", "json", "html"])
def test_the_report_command_renders_each_format(finished: RunStore, bench: Bench, format: str) -> None:
    rendered = bench("report", "out", "--format", format)
    assert rendered.code == 0
    assert "associative_recall" in rendered.out.replace("\\", "")
    if format == "csv":
        assert rendered.out == Path("out/leaderboard.csv").read_bytes().decode()


def test_a_report_of_two_runs_has_the_cells_and_predictions_of_the_later_one(finished: RunStore) -> None:
    later = RunStore(Path("later"))
    later.create()
    first, second = finished.records().records
    later.write_record(replace(first, run_id="later"))
    content = load_content([finished.root, later.root])
    assert content.title == "out, later"
    assert [message for message in content.messages if "later is shown" in message] == list(content.messages)
    assert content.samples[first.cell_id] == []  # the earlier run's predictions are not this record's
    assert 0 < len(content.samples[second.cell_id]) <= 5


@pytest.mark.parametrize(("format", "is_told"), [("csv", True), ("json", True), ("latex", True), ("md", False)])
def test_what_is_kept_apart_is_told_where_the_format_cannot(
    finished: RunStore, bench: Bench, format: str, is_told: bool
) -> None:
    record = finished.records().records[0]
    finished.write_record(replace(record, cell_id="other", peer_key="other"))
    rendered = bench("report", "out", "--format", format)
    told = "associative_recall was measured under 2 different conditions"
    assert (told in rendered.err, told in rendered.out.replace("\\", "")) == (is_told, not is_told)


@pytest.mark.parametrize("format", ["parquet", "model-index"])
def test_the_export_command_writes_each_format(finished: RunStore, bench: Bench, format: str) -> None:
    assert bench("export", "out", "--format", format, "-o", "exported").code == 0
    assert Path("exported").stat().st_size > 0
    refused = bench("export", "out", "--format", format, "-o", "absent/exported")
    assert (refused.code, "cannot write absent/exported" in refused.err) == (2, True)

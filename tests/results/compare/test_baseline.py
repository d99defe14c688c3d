"""Baselines: small files that say what the run said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hedgebench.results.compare.baseline import MAX_SAMPLES, write_baseline
from hedgebench.results.compare.snapshot import Snapshot, read_snapshot
from hedgebench.results.compare.verdicts import compare
from hedgebench.results.record import CurvePoint
from hedgebench.results.store import RunStore, StoreError

from ..simulated import World, make_record


def test_a_run_is_unchanged_from_its_own_baseline(tmp_path: Path) -> None:
    run = World().run(3)
    assert write_baseline(run, tmp_path / "new" / "b.json") == []
    comparison = compare(read_snapshot(tmp_path / "new" / "b.json"), run)
    by_metric = {(f.metric, f.change.method if f.change else "") for f in comparison.findings}
    assert by_metric == {
        ("perplexity", "paired bootstrap"),
        ("accuracy", "paired bootstrap"),
        ("prefill_ms", "the same timings"),
    }
    assert all(f.change and abs(f.change.worse) < 1e-4 for f in comparison.findings)
    assert comparison.exit_code == 0
    without = replace(run, samples={})
    write_baseline(without, tmp_path / "c.json")
    again = compare(read_snapshot(tmp_path / "c.json"), without)
    assert {f.change.method for f in again.findings if f.change} == {"the same values", "the same timings"}
    assert again.exit_code == 0


def test_a_baseline_leaves_out_curves_and_cells_without_a_result_and_says_which(tmp_path: Path) -> None:
    curve = (CurvePoint(1, "train", "loss", 2.0),)
    good = replace(World().run(4).records[0], curves=curve, notes=("kept",))
    bad = make_record("relu", "wikitext2", 0, (), status="timeout")
    told = write_baseline(Snapshot("run", (good, bad)), tmp_path / "b.json")
    assert told == ["left out, timeout: relu / wikitext2 / seed 0"]
    (record,) = read_snapshot(tmp_path / "b.json").records
    assert record.curves == ()
    assert record.notes == ("kept",)
    assert record.metrics[0].value == pytest.approx(good.metrics[0].value, rel=1e-8)


def test_too_many_predictions_are_left_out_and_told(tmp_path: Path) -> None:
    rows = [{"row": i, "correct": True} for i in range(MAX_SAMPLES + 1)]
    metric = replace(World().run(5).records[1].metrics[0], value=1.0)
    record = make_record("elu", "recall", 0, (metric,))
    told = write_baseline(Snapshot("run", (record,), {record.cell_id: rows}), tmp_path / "b.json")
    assert told == ["without predictions: elu / recall / seed 0, 2001 rows"]
    assert read_snapshot(tmp_path / "b.json").samples == {}


def test_a_change_of_one_number_is_a_change_of_one_line(tmp_path: Path) -> None:
    run = World().run(6)
    *others, last = run.records
    changed = replace(last, metrics=(replace(last.metrics[0], value=99.0),))
    write_baseline(run, tmp_path / "a.json")
    write_baseline(replace(run, records=(*others, changed)), tmp_path / "b.json")
    one, other = ((tmp_path / name).read_text().splitlines() for name in ("a.json", "b.json"))
    assert sum(a != b for a, b in zip(one, other, strict=True)) == 1
    assert max(map(len, one)) <= 200
    assert {line[:1] for line in one[1:-1]} == {" "}


def test_a_run_without_results_makes_no_baseline(tmp_path: Path) -> None:
    failed = make_record("relu", "wikitext2", 0, (), status="error")
    with pytest.raises(ValueError, match="no cell with a result"):
        write_baseline(Snapshot("run", (failed,)), tmp_path / "b.json")
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot read"),
        ("[]", "is not a baseline; make one with: bench baseline RUN_DIR"),
        ('{"format": "hedgebench baseline", "version": 9}', "has version 9; this release reads 1"),
        ('{"format": "hedgebench baseline", "version": 1}', "is damaged: baseline lacks run, cells"),
        ('{"format": "hedgebench baseline", "version": 1, "cells": [{"record": {}, "samples": {}}]}', "is damaged"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "b.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=message) as raised:
        read_snapshot(path)
    assert str(path) in str(raised.value)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        read_snapshot(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="has no folder cells"):
        read_snapshot(tmp_path)
    store = RunStore(tmp_path / "run")
    store.create()
    store.write_record(World().run(1).records[0])
    assert len(read_snapshot(store.root).records) == 1
    (store.cells / "0.json").write_text("{")
    with pytest.raises(StoreError, match=r"0\.json"):
        read_snapshot(store.root)


def test_this_repository_s_baseline_is_as_it_is_written_now(tmp_path: Path) -> None:
    committed = Path(__file__).parents[3] / "results/baselines/embedded.json"
    assert write_baseline(replace(read_snapshot(committed), name="base"), tmp_path / "b.json") == []
    assert (tmp_path / "b.json").read_bytes() == committed.read_bytes()

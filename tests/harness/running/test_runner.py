"""Runs from plan to report: what is done stays done, what is missing runs, what fails is told."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hedgebench.harness import registry
from hedgebench.harness.config import RunConfig, make_config
from hedgebench.harness.running.executors import LocalExecutor
from hedgebench.harness.running.runner import default_output, threads_per_cell
from hedgebench.results.store import RunStore
from hedgebench.tasks.base import DataUnavailableError

Bench = Callable[..., Any]
NAUGHTY = ("run", "--models", "softmax", "--tasks", "naughty", "--output", "out")


@pytest.fixture
def run_tiny(bench: Bench, tiny: list[str]) -> Bench:
    """Runs softmax and elu on the tiny task into the folder `out`, unless told otherwise."""

    def run(*more: object, models: str = "softmax,elu", output: str = "out") -> Any:
        return bench("run", "--models", models, *tiny, "--output", output, *more)

    return run


def contents(store: RunStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(store.cells.iterdir())}


def csv(folder: str) -> str:
    return Path(folder, "leaderboard.csv").read_text(encoding="utf-8")


def cell_of(store: RunStore, model: str) -> Path:
    (record,) = (r for r in store.records().records if r.model == model)
    return store.cells / f"{record.cell_id}.json"


def test_a_run_leaves_every_file_of_the_design(finished: RunStore) -> None:
    records = finished.records().records
    ids = sorted(r.cell_id for r in records)
    assert [r.model for r in records] == ["elu", "softmax"]
    assert sorted(path.stem for path in finished.cells.iterdir()) == ids
    assert sorted(path.stem for path in finished.samples.iterdir()) == ids
    for name in ("manifest.json", "leaderboard.csv", "leaderboard.md", "leaderboard.json", "report.html"):
        assert (finished.root / name).stat().st_size > 100
    assert {path.suffix for path in (finished.root / "plots").iterdir()} == {".svg", ".png"}


def test_records_say_what_ran_and_on_what(finished: RunStore) -> None:
    for record in finished.records().records:
        assert (record.status, record.error, record.run_id) == ("ok", None, "out")
        assert record.kernels
        assert record.data is not None
        assert record.settings["train.steps"] == 2
        assert record.settings["task.test_samples"] == 8
        assert {"load", "build", "train", "predict", "score"} <= set(record.timings_s)
        assert {"torch", "cpu", "git_commit", "dtype", "device", "threads"} <= set(record.environment)
        assert {"accuracy", "parameters", "state_bytes"} <= {m.name for m in record.metrics}
    assert len({record.peer_key for record in finished.records().records}) == 1


def test_records_state_tokenizer_labels_and_what_pairs(finished: RunStore) -> None:
    details = [found.data.details for found in finished.records().records if found.data]
    none = {"tokenizer_source": "none", "prefix_token": "none", "label_mapping": "none"}
    assert len(details) == 2
    assert all(none.items() <= each.items() for each in details)
    assert {each["paired_by"] for each in details} == {"documents"}
    assert len({each["paired_digest"] for each in details}) == 1


def test_the_manifest_holds_configuration_plan_and_environment(finished: RunStore) -> None:
    manifest = json.loads(finished.manifest.read_text())
    assert manifest["configuration"]["models"] == ["softmax", "elu"]
    assert {cell["cell"] for cell in manifest["plan"]} == {r.cell_id for r in finished.records().records}
    assert manifest["environment"]["python"]
    assert manifest["schema_version"] == 1


def test_running_again_does_nothing(finished: RunStore, run_tiny: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(finished), csv("out")
    monkeypatch.setattr(LocalExecutor, "_run_together", lambda _, jobs, *rest: iter(()) if not jobs else 1 / 0)
    again = run_tiny()
    assert again.code == 0
    assert "2 cells, 2 already done" in again.out
    assert (contents(finished), csv("out")) == before


def test_only_what_is_missing_runs(finished: RunStore, run_tiny: Bench) -> None:
    before, table = contents(finished), csv("out")
    missing = cell_of(finished, "elu")
    missing.unlink()
    again = run_tiny()
    assert "2 cells, 1 already done" in again.out
    assert "[1/1] elu / associative_recall" in again.out
    after = contents(finished)
    assert {name for name in after if after[name] != before[name]} == {missing.name}
    assert csv("out") == table


def test_fresh_runs_every_cell_again_to_the_same_numbers(finished: RunStore, run_tiny: Bench) -> None:
    before, table = contents(finished), csv("out")
    again = run_tiny("--fresh")
    assert "2 cells, 0 already done" in again.out
    after = contents(finished)
    assert all(after[name] != before[name] for name in after)
    assert csv("out") == table


def test_more_seeds_are_added_to_the_same_run(finished: RunStore, run_tiny: Bench) -> None:
    again = run_tiny("--seeds", "0,1", models="elu")
    assert (again.code, "2 cells, 1 already done" in again.out) == (0, True)
    assert [(r.model, r.seed) for r in finished.records().records] == [("elu", 0), ("elu", 1), ("softmax", 0)]


def test_a_limit_is_marked_partial_and_stands_apart(finished: RunStore, run_tiny: Bench) -> None:
    limited = run_tiny("--limit", "4", models="elu")
    assert limited.code == 0
    assert "partial" in limited.out
    records = [r for r in finished.records().records if r.model == "elu"]
    assert sorted(((r.limit, main.n) for r in records if (main := r.main())), key=str) == [(4, 4), (None, 8)]
    assert "partial" in csv("out")


def test_other_settings_set_the_earlier_record_aside_and_bring_it_back(finished: RunStore, run_tiny: Bench) -> None:
    before = contents(finished)
    changed = run_tiny("--set", "train.lr=0.5", models="elu")
    assert "elu / associative_recall / seed 0: settings, data or code changed" in changed.out
    assert [r.model for r in finished.records().records] == ["elu", "softmax"]
    assert len(list(Path("out/superseded").iterdir())) == 1
    back = run_tiny()
    assert "taken back from" in back.out
    assert "2 cells, 2 already done" in back.out
    assert contents(finished) == before


def test_a_corrupt_cell_is_set_aside_and_measured_again(finished: RunStore, run_tiny: Bench) -> None:
    cell, table = cell_of(finished, "elu"), csv("out")
    cell.write_bytes(cell.read_bytes()[:100])
    again = run_tiny()
    assert again.code == 0
    assert f"corrupt file set aside as out/cells/{cell.name}.corrupt: it is not JSON" in again.out
    assert "2 cells, 1 already done" in again.out
    assert csv("out") == table


def test_several_workers_give_the_same_leaderboard(finished: RunStore, run_tiny: Bench) -> None:
    assert run_tiny("--workers", "2", "--quiet", output="two").code == 0
    assert csv("two") == csv("out")


@pytest.mark.parametrize(
    ("how", "code", "text"),
    [
        ("kill", 3, "error: the process was killed by SIGKILL"),
        ("exit", 3, "error: the process ended with exit code 7"),
        ("silent", 3, "error: ValueError"),
        ("memory", 0, "oom: MemoryError"),
    ],
)
def test_a_cell_that_fails_leaves_the_others_their_results(
    bench: Bench, naughty: Path, how: str, code: int, text: str
) -> None:
    finished = bench(*NAUGHTY, "--tasks", "naughty,naughty_alone", "--set", f"how={how}")
    assert finished.code == code
    assert finished.out.count(f": {text}") >= 2
    records = RunStore(Path("out")).records().records
    assert [r.task for r in records] == ["naughty", "naughty_alone"]
    assert all(r.error is not None for r in records)
    assert list(Path("out/logs").iterdir())


def test_a_killed_cell_is_run_again_to_the_same_leaderboard(bench: Bench, naughty: Path, tiny: list[str]) -> None:
    run = (
        "run",
        "--models",
        "softmax,elu",
        "--tasks",
        "naughty,associative_recall",
        *tiny[2:],
        "--set",
        "how=kill_once",
    )
    killed = bench(*run, "--output", "out", "--set", "marker=one")
    assert killed.code == 3
    assert "1 of 4 cells have no result: 1 error" in killed.out
    assert "softmax / naughty / seed 0: the process was killed by SIGKILL" in killed.out
    again = bench(*run, "--output", "out", "--set", "marker=one")
    assert (again.code, "4 cells, 3 already done" in again.out) == (0, True)
    Path("two").touch()
    assert bench(*run, "--output", "whole", "--set", "marker=two").code == 0
    assert csv("out") == csv("whole")


def test_a_time_limit_ends_a_cell_and_a_longer_one_tries_again(bench: Bench, naughty: Path) -> None:
    finished = bench(*NAUGHTY, "--set", "how=sleep", "--timeout", "0.5")
    assert finished.code == 3
    assert "timeout: stopped after the time limit of 0.5 s" in finished.out
    again = bench(*NAUGHTY, "--set", "how=sleep", "--timeout", "0.6")
    assert "1 cells, 0 already done" in again.out


def test_data_out_of_reach_does_not_lose_what_was_measured(bench: Bench, naughty: Path) -> None:
    assert bench(*NAUGHTY).code == 0
    store = RunStore(Path("out"))
    before = contents(store)
    task: Any = registry.tasks().get("naughty")

    def unavailable(*_: object) -> None:
        raise DataUnavailableError("gone")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(task), "identify", unavailable)
        assert bench(*NAUGHTY).code == 3
    back = bench(*NAUGHTY)
    assert (back.code, "1 cells, 1 already done" in back.out) == (0, True)
    assert contents(store) == before


def test_quiet_prints_the_table_alone(finished: RunStore, run_tiny: Bench) -> None:
    quiet = run_tiny("--quiet")
    assert "already done" not in quiet.out
    assert "accuracy" in quiet.out
    assert quiet.out.splitlines()[-1] == "report: out/report.html"


def test_the_same_request_has_the_same_folder_whatever_does_not_change_it() -> None:
    config = RunConfig(models=("elu",), tasks=("stdlib",), overrides={"a": "1", "b": "2"})
    name = default_output(config)
    assert name.parts[:2] == ("results", "runs")
    assert name.name.startswith("stdlib-elu-smoke-")
    same: list[dict[str, Any]] = [
        {"seeds": (0, 1)},
        {"timeout_s": 60.0},
        {"workers": 4},
        {"fresh": True},
        {"log_samples": True},
        {"overrides": {"b": "2", "a": "1"}},
    ]
    assert {default_output(replace(config, **changes)) for changes in same} == {name}
    other: list[dict[str, Any]] = [{"limit": 4}, {"overrides": {}}, {"scale": "paper"}, {"dtype": "bfloat16"}]
    assert len({default_output(replace(config, **changes)) for changes in other} | {name}) == 5
    assert default_output(make_config({})).name == "quickstart"
    assert default_output(make_config({"seeds": (1, 2), "workers": 1})).name == "quickstart"
    changed: list[dict[str, Any]] = [{"scale": "small"}, {"device": "cpu"}, {"models": ("elu",)}, {"backbone": "gpt"}]
    names = {default_output(make_config({"suite": "quickstart", **values})).name for values in changed}
    assert len(names) == 4
    assert {name[:17] for name in names} == {"quickstart-smoke-", "quickstart-small-"}


def test_cells_together_use_every_core_and_no_more() -> None:
    cores = len(os.sched_getaffinity(0))
    assert threads_per_cell(1) == cores
    assert threads_per_cell(10 * cores) == 1

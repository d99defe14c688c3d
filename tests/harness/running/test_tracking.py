"""`--log` and sending finished runs: what fails is told, and costs neither a record nor the exit code."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hedgebench.harness.config import make_config, read_config_file
from hedgebench.results.exchange import mlflow
from hedgebench.results.names import UsageError
from hedgebench.results.record import Record
from hedgebench.results.store import RunStore

Bench = Callable[..., Any]


class Recorded:
    """A tracker that keeps what it is sent, and fails at the step it is told to."""

    breaks_at = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cells: list[str] = []
        self.files: list[str] = []

    def send_cell(self, record: Record) -> None:
        self._reach("cell")
        assert (self.folder / "cells" / f"{record.cell_id}.json").exists()
        self.cells.append(record.model)

    def send_files(self, files: Mapping[str, Path]) -> None:
        self._reach("files")
        self.files = sorted(files)

    def close(self) -> str:
        return "in memory"

    def _reach(self, step: str) -> None:
        if step == self.breaks_at:
            raise ConnectionError("the server\nis gone")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Recorded]:
    """Puts `Recorded` in MLflow's place; gives those that were opened."""
    found: list[Recorded] = []

    def open_one(folder: Path) -> Recorded:
        found.append(Recorded(folder))
        return found[-1]

    monkeypatch.setattr(mlflow, "MlflowTracker", open_one)
    monkeypatch.setitem(sys.modules, "mlflow", json)  # found, whether or not MLflow is installed
    return found


def test_cells_are_sent_as_they_end_and_the_report_at_last(
    bench: Bench, tiny: list[str], opened: list[Recorded]
) -> None:
    ran = bench("run", "--models", "softmax,elu", *tiny, "--output", "out", "--log", "mlflow")
    assert ran.code == 0
    (tracker,) = opened
    assert tracker.cells == ["softmax", "elu", "softmax", "elu"]  # each as it ends, and all again at the end
    assert {"leaderboard.csv", "report.html"} < set(tracker.files)
    assert "mlflow: in memory" in ran.out
    assert bench("run", "--models", "softmax,elu", *tiny, "--output", "out", "--log", "mlflow").code == 0
    assert opened[1].cells == ["softmax", "elu"]


@pytest.mark.parametrize(("step", "attempts"), [("cell", 0), ("files", 4)])
def test_a_tracker_that_fails_is_told_of_at_the_end_and_costs_nothing(
    bench: Bench, tiny: list[str], opened: list[Recorded], monkeypatch: pytest.MonkeyPatch, step: str, attempts: int
) -> None:
    monkeypatch.setattr(Recorded, "breaks_at", step)
    ran = bench("run", "--models", "softmax,elu", *tiny, "--output", "out", "--quiet", "--log", "mlflow")
    assert ran.code == 0
    assert [len(tracker.cells) for tracker in opened] == [attempts]
    assert len(RunStore(Path("out")).records().records) == 2
    told = " ".join(ran.out.split())
    assert "warning: mlflow: ConnectionError: the server is gone; no record is lost" in told
    assert "send them later with: bench export out --format mlflow" in told


def test_a_finished_run_is_sent_afterwards(bench: Bench, tiny: list[str], opened: list[Recorded]) -> None:
    assert bench("run", "--models", "softmax", *tiny, "--output", "out").code == 0
    sent = bench("export", "out", "--format", "mlflow")
    assert (sent.code, sent.err) == (0, "bench: mlflow: in memory\n")
    assert opened[0].cells == ["softmax"]
    assert "report.html" in opened[0].files


@pytest.mark.parametrize("command", [("run", "--log", "mlflow"), ("export", "out", "--format", "mlflow")])
def test_a_tracker_that_is_not_installed_is_exit_code_2_before_anything_runs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "mlflow" else find(name))
    (Path("out") / "cells").mkdir(parents=True)
    answer = bench(*command)
    assert answer.code == 2
    assert "mlflow needs the package mlflow: pip install 'hedgebench[mlflow]'" in answer.err
    assert not Path("results").exists()


def test_a_failure_of_a_tracker_afterwards_is_exit_code_2(
    bench: Bench, opened: list[Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    (Path("out") / "cells").mkdir(parents=True)
    monkeypatch.setattr(Recorded, "breaks_at", "files")
    sent = bench("export", "out", "--format", "mlflow")
    assert sent.code == 2
    assert "mlflow failed with out: ConnectionError: the server is gone" in sent.err


def test_trackers_are_named_in_flags_and_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('log = ["mlflow", "wandb"]')
    assert make_config(read_config_file(tmp_path / "run.toml")).log == ("mlflow", "wandb")
    with pytest.raises(UsageError, match=r"unknown tracker 'mlfow'; did you mean mlflow\?"):
        make_config({"log": ("mlfow",)})


def test_flags_may_be_repeated_or_joined(bench: Bench) -> None:
    answer = bench("run", "--log", "mlflow,wandb", "--log", "tensorbord")
    assert answer.code == 2
    assert "unknown tracker 'tensorbord'; did you mean tensorboard?" in answer.err

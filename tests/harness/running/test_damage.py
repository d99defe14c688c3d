"""Damaged, foreign and missing files in a run's folder cost what they held, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hedgebench.harness.running.artifacts import StageResult, get_or_make
from hedgebench.results.store import RunStore

Bench = Callable[..., Any]


@pytest.fixture
def run_tiny(bench: Bench, tiny: list[str]) -> Bench:
    """Runs softmax and elu on the tiny task into the folder `out`."""
    return lambda *more: bench("run", "--models", "softmax,elu", *tiny, "--output", "out", *more)


def text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


@pytest.mark.parametrize("where", ["artifacts", "checkpoints", "cells", "samples", "plots", "logs"])
def test_a_link_to_elsewhere_is_refused_before_anything_is_touched(
    finished: RunStore, run_tiny: Bench, where: str, tmp_path: Path
) -> None:
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (outside / "kept").touch()
    shutil.rmtree(finished.root / where, ignore_errors=True)
    (finished.root / where).symlink_to(outside)
    refused = run_tiny("--fresh")
    assert refused.code == 2
    assert f"symbolic links in a run's folder are not followed: out/{where} -> {outside}" in refused.err
    assert [path.name for path in outside.iterdir()] == ["kept"]


def test_damaged_files_of_every_kind_are_set_aside_and_the_run_goes_on(finished: RunStore, run_tiny: Bench) -> None:
    table, cells = text("out/leaderboard.csv"), sorted(finished.cells.glob("*.json"))
    kept = cells[0].read_bytes()
    cells[1].unlink()
    cells[1].mkdir()
    sample = finished.samples / f"{cells[0].stem}.jsonl"
    sample.write_bytes(sample.read_bytes()[:-5])
    for name in ("leaderboard.csv", "manifest.json", "report.html"):
        (finished.root / name).unlink()
        (finished.root / name / "inside").mkdir(parents=True)
    litter = finished.root / ".report.html.0123456789abcdef0123456789abcdef.tmp"
    litter.touch()
    left = finished.root / "checkpoints" / cells[0].stem
    left.mkdir(parents=True)
    again = run_tiny()
    assert again.code == 0
    assert f"corrupt file set aside as out/samples/{sample.name}.corrupt" in again.out
    assert f"corrupt file set aside as out/cells/{cells[1].name}.corrupt" in again.out
    assert (text("out/leaderboard.csv"), cells[0].read_bytes()) == (table, kept)
    assert (Path("out/leaderboard.csv.corrupt/inside").is_dir(), litter.exists(), left.exists()) == (True, False, False)


def test_reports_go_on_where_predictions_are_damaged(finished: RunStore, bench: Bench) -> None:
    sample = next(finished.samples.iterdir())
    sample.write_bytes(b"{")
    for command in (
        ("report", "out"),
        ("report", "out", "--format", "html"),
        ("export", "out", "--format", "lm-eval", "-o", "x"),
    ):
        told = bench(*command)
        assert told.code == 0
        assert f"corrupt file left out: out/samples/{sample.name}" in told.err
    compared = bench("compare", "out", "out")
    assert compared.code == 0
    assert f"cannot read the samples in out/samples/{sample.name}" in compared.out


@pytest.mark.parametrize("name", ["weights.safetensors", "about.json"])
def test_damaged_weights_of_an_earlier_cell_are_made_again(tmp_path: Path, name: str) -> None:
    weights, made, put = {"a": torch.arange(100.0)}, [], []

    def make() -> tuple[dict[str, torch.Tensor], StageResult]:
        made.append(1)
        return weights, StageResult(notes=("made",))

    def get() -> StageResult:
        return get_or_make(tmp_path / "artifacts", "train", {"x": 1}, make, lambda kept: put.append(kept["a"].clone()))

    assert get().notes == ("made",)
    assert "weights taken from" in get().notes[-1]
    (kept,) = (tmp_path / "artifacts").glob("train-*[!k]")
    content = bytearray((kept / name).read_bytes())
    content[-30] ^= 1
    (kept / name).write_bytes(content)
    again = get()
    assert again.notes[0] == "made"
    assert "is damaged" in again.notes[1]
    assert len(made) == 2
    assert "weights taken from" in get().notes[-1]
    assert all(torch.equal(each, weights["a"]) for each in put)


def test_what_the_system_refuses_is_told_with_its_path_and_what_to_do(
    run_tiny: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("file").resolve()))
    done = run_tiny()
    assert done.code == 0
    assert "the cache" in done.err
    assert "cannot be written (Not a directory); derived files of this run are not kept" in done.err

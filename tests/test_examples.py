"""The programs in `examples/` run as a user would run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TINY = ("train.steps=2", "train_samples=32", "validation_samples=8", "test_samples=8", "vocab_size=8", "length=8")


def output_of(example: str, *arguments: str) -> list[str]:
    command = [sys.executable, str(ROOT / "examples" / example), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".pyroot"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


def test_hedgehogs_distilled_map_comes_nearest_to_softmax() -> None:
    lines = output_of("own_feature_map.py")
    nats = {name: float(value) for name, value, *_ in map(str.split, lines)}
    assert set(nats) == {"hedgehog", "elu", "softplus"}
    assert nats["hedgehog"] < 0.8 * min(nats["elu"], nats["softplus"])


def test_a_run_is_read_back_and_does_not_run_twice(tmp_path: Path) -> None:
    options = [part for pair in TINY for part in ("--set", pair)]
    first = output_of("run_and_read.py", str(tmp_path / "run"), *options)[-2:]
    assert [line.split()[:2] for line in first] == [["hedgehog", "accuracy"], ["softmax", "accuracy"]]
    cells = sorted((tmp_path / "run" / "cells").glob("*.json"))
    before = [cell.stat().st_mtime_ns for cell in cells]
    assert output_of("run_and_read.py", str(tmp_path / "run"), *options)[-2:] == first
    assert [cell.stat().st_mtime_ns for cell in cells] == before

"""The programs and the notebook in `examples/` run as a user would run them."""

from __future__ import annotations

import json
import os
import shutil
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
    first = output_of("run_and_read.py", str(tmp_path / "run"), *TINY)[-3:-1]
    assert [line.split()[:2] for line in first] == [["hedgehog", "accuracy"], ["softmax", "accuracy"]]
    cells = sorted((tmp_path / "run" / "cells").glob("*.json"))
    before = [cell.stat().st_mtime_ns for cell in cells]
    assert output_of("run_and_read.py", str(tmp_path / "run"), *TINY)[-3:-1] == first
    assert [cell.stat().st_mtime_ns for cell in cells] == before


def test_the_notebook_runs_and_shows_progress_tables_and_plots(tmp_path: Path) -> None:
    source = json.loads((ROOT / "examples" / "own_attention.ipynb").read_text(encoding="utf-8"))
    assert all(cell.get("outputs", []) == [] for cell in source["cells"]), "outputs are not committed"
    shutil.copy(ROOT / "examples" / "own_attention.ipynb", tmp_path)
    command = [sys.executable, "-c", "from nbclient.cli import main; main()", "own_attention.ipynb", "--inplace"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".pyroot"), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    executed = json.loads((tmp_path / "own_attention.ipynb").read_text(encoding="utf-8"))
    outputs = [output for cell in executed["cells"] for output in cell.get("outputs", [])]
    pages = ["".join(output["data"]["text/html"]) for output in outputs if "text/html" in output.get("data", {})]
    printed = "".join("".join(output["text"]) for output in outputs if output["output_type"] == "stream")
    assert any("3 of 3 cells" in page for page in pages)
    assert any("<th>power:p=4</th>" in page and "associative_recall" in page for page in pages)
    assert any("data:image/svg+xml" in page for page in pages)
    assert any("no regression" in "".join(output.get("data", {}).get("text/markdown", "")) for output in outputs)
    assert "[3/3] power:p=4 / associative_recall: accuracy" in printed
    assert "bench: " not in printed

"""Where some packages are missing the program runs and says so, and the tests for a GPU are found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hedgebench

ROOT = Path(hedgebench.__file__).parent

HIDDEN = (
    *("beartype", "datasets", "evaluate", "fla", "gguf", "itables", "junitparser", "lm_eval", "rouge_score"),
    *("selenium", "mlflow", "wandb"),
)

# Python imports it at its start, in every process that inherits PYTHONPATH.
_HIDE = """
import functools, importlib.machinery
_find = importlib.machinery.PathFinder.find_spec
def _find_the_rest(name, path=None, target=None):
    return None if name.partition(".")[0] in {hidden!r} else _find(name, path, target)
importlib.machinery.PathFinder.find_spec = functools.partial(_find_the_rest)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of processes in which the packages cannot be found."""
    folder = tmp_path_factory.mktemp("hidden")
    (folder / "sitecustomize.py").write_text(_HIDE.format(hidden=HIDDEN), encoding="utf-8")
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT / ".pyroot")))}


def run(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def test_a_run_ends_with_a_report_whose_plain_tables_say_why(environment: dict[str, str], tmp_path: Path) -> None:
    options = ("--models", "softmax", "--tasks", "associative_recall", "--scale", "smoke", "--set", "train.steps=2")
    run(environment, "-m", "hedgebench", "run", *options, "--quiet", "--output", str(tmp_path / "run"))
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "the tables cannot be sorted or filtered: the package itables" in page
    assert "globalThis.DataTable" not in page


@pytest.mark.parametrize("folder", ["tests/kernels", pytest.param("tests", marks=pytest.mark.slow)])
def test_the_tests_for_a_gpu_are_found_and_say_that_shapes_are_not_checked(
    environment: dict[str, str], folder: str
) -> None:
    found = run(environment, "-m", "pytest", "-m", "gpu", "--collect-only", "-p", "no:cacheprovider", folder)
    marked = {path.name for path in (ROOT / folder).rglob("test_*.py") if "pytest.mark.gpu" in path.read_text("utf-8")}
    missing = {name for name in marked - {"test_missing_packages.py"} if f"<Module {name}>" not in found}
    assert missing == set()
    assert "not checked, the package beartype is missing" in found

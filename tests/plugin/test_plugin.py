"""A package of somebody else's, installed by pip, adds a mechanism and a task; a broken one harms nobody."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

Call = Callable[..., "subprocess.CompletedProcess[str]"]


def install(source: Path, site: Path) -> Path:
    """Installs the package in `source` with pip into the folder `site`, from a copy that pip may write to."""
    copy = site.with_name(f"{site.name}-source")
    shutil.copytree(source, copy)
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(site), str(copy)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(HERE, tmp_path_factory.mktemp("plugin") / "site")


@pytest.fixture(scope="module")
def broken_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("broken") / "source"
    shutil.copytree(HERE, source)
    (source / "hedgebench_example" / "mechanism.py").write_text("import nothing_of_the_kind\n", encoding="utf-8")
    return install(source, source.parent / "site")


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Calls `bench` in an empty folder with a folder of plugins on the path."""

    def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(folder), str(ROOT / ".pyroot")])
        environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(tmp_path)}
        command = [sys.executable, "-m", "hedgebench", *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def test_listings_show_what_a_plugin_adds(site: Path, call: Call) -> None:
    models = json.loads(call(site, "list", "models", "--json").stdout)
    assert {"softmax", "softplus"} <= {row["model"] for row in models}
    assert [row["options"] for row in models if row["model"] == "softplus"] == [{"beta": "float"}]
    tasks = json.loads(call(site, "list", "tasks", "--json").stdout)
    assert {"stdlib", "copy"} <= {row["task"] for row in tasks}


def test_a_plugins_mechanism_and_task_run_from_end_to_end(site: Path, call: Call, tmp_path: Path) -> None:
    done = call(
        site, "run", "--models", "softmax,softplus:beta=2", "--tasks", "copy", "--workers", "2", "--output", "out"
    )
    assert (done.returncode, done.stderr) == (0, "")
    records = {r["model"]: r for r in (json.loads(p.read_text()) for p in (tmp_path / "out" / "cells").iterdir())}
    assert set(records) == {"softmax", "softplus:beta=2"}
    for record in records.values():
        assert record["status"] == "ok"
        assert record["metrics"][0]["name"] == "token_accuracy"
        assert record["data"]["id"] == "copy"
    forms = {kernel["form"] for kernel in records["softplus:beta=2"]["kernels"]}
    assert forms
    assert forms.isdisjoint({kernel["form"] for kernel in records["softmax"]["kernels"]})
    assert "softplus:beta=2" in (tmp_path / "out" / "leaderboard.csv").read_text(encoding="utf-8")


def test_a_broken_plugin_leaves_everything_else_in_use(broken_site: Path, call: Call) -> None:
    listed = call(broken_site, "list", "models")
    assert listed.returncode == 0
    assert "softmax" in listed.stdout
    assert "warning: plugin 'softplus' is not usable: ModuleNotFoundError" in listed.stderr
    assert "copy" in call(broken_site, "list", "tasks").stdout
    asked = call(broken_site, "run", "--models", "softplus", "--tasks", "copy")
    assert asked.returncode == 2
    assert "model 'softplus' is a plugin that could not be loaded: ModuleNotFoundError" in asked.stderr

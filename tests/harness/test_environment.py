"""What a run ran on, and nothing that is nobody's business."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from hedgebench.harness import environment
from hedgebench.harness.environment import (
    PACKAGES,
    commit_date,
    git_state,
    gpu_name,
    has_cuda_device,
    host_environment,
    package_version,
)


@pytest.fixture
def _fresh() -> Iterator[None]:
    host_environment.cache_clear()
    yield
    host_environment.cache_clear()


@pytest.mark.usefixtures("_fresh")
def test_the_environment_names_versions_processor_and_commit() -> None:
    found = host_environment()
    assert set(PACKAGES) <= set(found)
    assert found["cpu"]
    assert found["cpu_count"]
    assert "git_commit" in found
    json.dumps(found, allow_nan=False)


@pytest.mark.usefixtures("_fresh")
def test_variables_are_recorded_by_a_list_and_secrets_are_not_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(name, "hunter2-secret")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    found = host_environment()
    assert found["TRITON_INTERPRET"] == "1"
    assert "hunter2" not in repr(found)


def test_no_file_of_a_run_holds_a_token(bench_process: Callable[..., Any], tmp_path: Path, naughty: Path) -> None:
    env = {"HF_TOKEN": "hunter2-secret", "MLFLOW_TRACKING_PASSWORD": "hunter2-secret"}
    arguments = ["run", "--models", "elu", "--tasks", "naughty", "--set", "how=error", "--output", "out"]
    finished = bench_process(*arguments, env=env)
    assert finished.code == 3
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) > 4
    assert not [path for path in files if b"hunter2" in path.read_bytes()]
    assert "hunter2" not in finished.out + finished.err


@pytest.mark.parametrize(
    ("visible", "name"),
    [
        (None, "NVIDIA A100"),
        ("0,1", "NVIDIA A100"),
        ("1", "NVIDIA H100"),
        (" 1,0", "NVIDIA H100"),
        ("GPU-b", "NVIDIA H100"),
        ("2", ""),
        ("-1", ""),
        ("", ""),
    ],
)
def test_the_named_device_is_the_first_that_is_visible(
    visible: str | None, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bus, model, uuid in (("0000:01:00.0", "NVIDIA A100", "GPU-a1"), ("0000:81:00.0", "NVIDIA H100", "GPU-b2")):
        (tmp_path / bus).mkdir()
        (tmp_path / bus / "information").write_text(f"Model: \t {model}\nGPU UUID: \t {uuid}\n")
    monkeypatch.setattr(environment, "_GPUS", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_name() == name


def test_a_package_that_is_not_installed_has_no_version() -> None:
    assert package_version("no-such-distribution-at-all") is None
    assert package_version("pytest")


def test_a_checkout_tells_its_commit_and_whether_it_was_changed(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(tmp_path), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert set(git_state(tmp_path).values()) == {None}
    git("init", "-q")
    (tmp_path / "file").write_text("a", encoding="utf-8")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    found = git_state(tmp_path)
    assert (found["git_commit"], found["git_dirty"]) == (git("rev-parse", "HEAD"), False)
    assert datetime.fromisoformat(str(found["git_commit_date"])).timestamp() == int(git("show", "-s", "--format=%ct"))
    assert commit_date(tmp_path, "0" * 40) is None
    (tmp_path / "file").write_text("b", encoding="utf-8")
    assert git_state(tmp_path)["git_dirty"] is True


def test_a_machine_without_git_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert set(git_state(tmp_path).values()) == {None}


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_hidden_device_is_not_there(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert not has_cuda_device()


def test_the_device_is_described_even_where_cuda_was_asked_for_and_is_not_there() -> None:
    import torch

    described = environment.device_environment("cuda")
    assert described["device"] == "cuda"
    assert ("gpu" in described) == torch.cuda.is_available()

"""A command line to call, in this process or in one of its own, in an empty folder without network."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hedgebench.adapters.backbone import BACKBONES
from hedgebench.adapters.spec import parse_spec
from hedgebench.harness import cli, registry
from hedgebench.harness.cell import Cell, PlannedCell
from hedgebench.harness.config import RunConfig
from hedgebench.harness.running import runner
from hedgebench.harness.running.job import CellJob
from hedgebench.results.record import DataIdentity
from hedgebench.results.store import RunStore
from hedgebench.tasks.base import Sources

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TINY = ["--tasks", "associative_recall"]
for _pair in (
    "train.steps=2",
    "train_samples=32",
    "validation_samples=8",
    "test_samples=8",
    "vocab_size=8",
    "length=8",
):
    TINY += ["--set", _pair]


@dataclass(frozen=True)
class Finished:
    """What a command gave."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """Processes inherit that interrupts are ignored, as where a shell runs the tests in the background: undone."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current folder, no mirror, no network, one thread, and a path on which processes find the package."""
    for name in ("HEDGEBENCH_MIRROR", "HF_TOKEN", "NO_COLOR", "FORCE_COLOR", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / ".pyroot"))
    monkeypatch.setattr(runner, "threads_per_cell", lambda _: 1)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder for temporary files whose path is short: that of a socket may have 107 characters."""
    return tmp_path_factory.mktemp("t")


@pytest.fixture
def tiny() -> list[str]:
    """Arguments of `bench run` for a task that takes a fraction of a second."""
    return list(TINY)


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """Calls the command line in this process."""

    def call(*arguments: object) -> Finished:
        before = signal.getsignal(signal.SIGTERM)
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            signal.signal(signal.SIGTERM, before)
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def _finished_runs() -> dict[str, Path]:
    return {}


@pytest.fixture
def finished(
    bench: Callable[..., Finished],
    tiny: list[str],
    _finished_runs: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> RunStore:
    """The folder `out` of a run of softmax and elu on the tiny task; it was run once and is copied for each test."""
    if "run" not in _finished_runs:
        assert bench("run", "--models", "softmax,elu", *tiny, "--output", "out", "--quiet").code == 0
        _finished_runs["run"] = Path(shutil.copytree("out", tmp_path_factory.mktemp("finished") / "out"))
    else:
        shutil.copytree(_finished_runs["run"], "out")
    return RunStore(Path("out"))


@pytest.fixture
def start_bench() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command line as the leader of a group of its own; whatever still runs is ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "hedgebench", *map(str, arguments)],
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()


@pytest.fixture
def bench_process(start_bench: Callable[..., subprocess.Popen[str]]) -> Callable[..., Finished]:
    """Calls the command line in a process of its own."""

    def call(*arguments: object, env: Mapping[str, str] | None = None) -> Finished:
        process = start_bench(*arguments, env=env)
        out, err = process.communicate(timeout=120)
        return Finished(process.returncode, out, err)

    return call


@pytest.fixture
def naughty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Installs the plugin with the tasks `naughty` and `naughty_alone` for this process and those it starts."""
    folder = tmp_path / "site"
    install_plugin(folder, "naughty", "hedgebench.tasks", "naughty:TASKS")
    shutil.copy(HERE / "naughty.py", folder)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ROOT / '.pyroot'}")
    monkeypatch.syspath_prepend(str(folder))
    _forget()
    yield folder
    _forget()


@pytest.fixture
def add_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, str, str], None]]:
    """Installs a plugin that is one module: its name, its entry-point group, the object it names, and its source."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    def add(name: str, group: str, target: str, source: str) -> None:
        install_plugin(tmp_path / "site", name, group, target)
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / "site" / f"{name}.py").write_text(source, encoding="utf-8")
        _forget()

    yield add
    _forget()


def install_plugin(folder: Path, name: str, group: str, target: str) -> None:
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n", encoding="utf-8")


def _forget() -> None:
    registry.mechanisms.cache_clear()
    registry.tasks.cache_clear()


def _cell(**changes: Any) -> Cell:
    values: dict[str, Any] = {
        "model": "softmax",
        "backbone": "gpt",
        "task": "naughty",
        "task_version": 1,
        "recipe": "zero-shot",
        "scale": "smoke",
        "seed": 0,
        "limit": None,
        "device": "cpu",
        "dtype": "float32",
        "settings": {
            "task": {"how": "behave", "marker": "marker", "batch_size": 8},
            "backbone": dict(BACKBONES["gpt"].sizes["smoke"]),
        },
        "data": DataIdentity("naughty", "1", "f00d", "generated", {"test": 1}),
        "scoring": "5c0re",
    }
    return Cell(**{**values, **changes})


@pytest.fixture
def make_cell() -> Callable[..., Cell]:
    """Makes a cell of the task `naughty`; every field has a default."""
    return _cell


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., CellJob]:
    """Makes a job for the task `naughty` with `how` it behaves, and any other fields of the job."""

    def make(how: str = "behave", **changes: Any) -> CellJob:
        cell = _cell()
        task = {**cell.settings["task"], "how": how, "marker": str(tmp_path / f"marker-{how}")}
        planned = PlannedCell(
            cell=_cell(settings={**cell.settings, "task": task}),
            task=registry.tasks().get("naughty"),
            spec=parse_spec("softmax", registry.mechanisms().get),
            backbone=BACKBONES["gpt"],
        )
        values: dict[str, Any] = {
            "planned": planned,
            "config": RunConfig(models=("softmax",), tasks=("naughty",)),
            "root": tmp_path / "run",
            "sources": Sources(None, tmp_path / "cache", offline=True),
            "threads": 1,
        }
        return CellJob(**{**values, **changes})

    return make


@pytest.fixture
def make_jobs(make_job: Callable[..., CellJob]) -> Callable[..., list[CellJob]]:
    """Makes so many jobs for the task `naughty`, each with the seed of its place; those `alone` measure time."""

    def make(count: int, alone: tuple[int, ...] = ()) -> list[CellJob]:
        job = make_job(timeout_s=9.0)
        tasks = [registry.tasks().get("naughty_alone" if i in alone else "naughty") for i in range(count)]
        return [
            replace(job, planned=replace(job.planned, cell=replace(job.cell, seed=i), task=task))
            for i, task in enumerate(tasks)
        ]

    return make

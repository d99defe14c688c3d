"""The repository's root is the package: it imports from anywhere, shadows nothing and builds into a wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("harness", "tasks", "adapters", "kernels", "results")
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "runs")


@pytest.mark.slow
@pytest.mark.parametrize("folder", [ROOT, Path("/tmp")])
def test_our_folders_shadow_no_package_that_transformers_looks_for(folder: Path) -> None:
    command = [sys.executable, "-c", "from transformers import GPT2LMHeadModel, BertForSequenceClassification"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".pyroot"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_root_on_the_path_gives_no_regular_packages() -> None:
    script = f"import importlib.util as u; print([n for n in {FOLDERS!r} if (s := u.find_spec(n)) and s.origin])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", [ROOT / ".pyroot", Path(".pyroot")])
def test_the_link_serves_runs_without_installing(path: Path, tmp_path: Path) -> None:
    folder = tmp_path if path.is_absolute() else ROOT
    environment = {**os.environ, "PYTHONPATH": str(path)}
    command = [sys.executable, "-m", "hedgebench", "--help"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "bench" in done.stdout


def test_the_lists_of_the_project_file_name_every_room_and_every_module_with_kernels() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    modules = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    rooms = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in modules}
    halls_and_rooms = {f"hedgebench.{room}" for room in rooms | set(FOLDERS)}
    assert sorted(project["setuptools"]["packages"]) == sorted({"hedgebench", *halls_and_rooms})
    kernels = {
        ".".join(("hedgebench", *path.relative_to(ROOT).with_suffix("").parts))
        for path in modules
        if "@triton.jit" in path.read_text(encoding="utf-8")
    }
    (lenient,) = (each for each in project["mypy"]["overrides"] if "disallow_untyped_defs" in each)
    assert sorted(lenient["module"]) == sorted(kernels)


def test_every_dependency_has_an_upper_bound() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = [each for some in lists for each in some]
    assert len(wanted) > 50
    assert [each for each in wanted if not re.search(r"==|<", each.partition(";")[0])] == []


def test_the_oldest_triton_that_is_allowed_is_the_one_that_is_tested() -> None:
    allowed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    (triton,) = (each.partition(";")[0] for each in allowed if each.startswith("triton"))
    tested = re.search(r"^OLDEST_TRITON := (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert tested is not None
    assert f"{triton.partition(',')[0]}." in f"triton>={tested[1]}."


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: a build leaves folders behind."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=LEFT_OUT)
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(folder), str(folder / "source")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_every_module_and_data_file_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    page = ("template.html", "history.html", "page.css", "page.js", "theme.js")
    data = {
        ROOT / "py.typed",
        *(ROOT / "results/report" / name for name in page),
        ROOT / "results/paper/template.html",
        *(ROOT / "results/reference").glob("*.json"),
    }
    wanted = modules | data | {ROOT / "__init__.py", ROOT / "__main__.py"}
    assert names == {f"hedgebench/{path.relative_to(ROOT)}" for path in wanted}
    assert len(data) > 2


def test_the_wheel_runs_where_the_repository_is_not(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        (entries,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "bench = hedgebench.harness.cli:main" in archive.read(entries).decode()
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "hedgebench", "list", "models"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "hedgehog" in done.stdout

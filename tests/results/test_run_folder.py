"""Nothing outside of a run's folder is written, moved or removed, whatever links lie in it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from hedgebench.results.run_folder import OWN, RunFolder, StoreError


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder elsewhere, with a file."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "kept.txt").write_text("kept", encoding="utf-8")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    (tmp_path / "run" / "cells").mkdir(parents=True)
    return RunFolder(tmp_path / "run")


CHANGES: dict[str, Callable[[RunFolder, Path], object]] = {
    "write": lambda run, path: run.write(path / "new.json", b"new"),
    "remove": lambda run, path: run.remove(path),
    "remove a file": lambda run, path: run.remove(path / "kept.txt"),
    "make": lambda run, path: run.make(path / "new"),
    "set aside": lambda run, path: run.set_aside(path / "kept.txt"),
    "move out": lambda run, path: run.move(run.root / "cells", path / "cells"),
    "move in": lambda run, path: run.move(path / "kept.txt", run.root / "kept.txt"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("where", ["artifacts", "checkpoints/cell"])
def test_a_folder_that_is_a_link_is_refused_by_name_and_its_target_untouched(
    run: RunFolder, outside: Path, where: str, change: str
) -> None:
    link = run.root / where
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside)
    with pytest.raises(StoreError, match=f"{where} -> {outside}"):
        CHANGES[change](run, link)
    with pytest.raises(StoreError, match=f"{where} -> {outside}"):
        run.refuse_links()
    assert {path.name: path.read_text(encoding="utf-8") for path in outside.iterdir()} == {"kept.txt": "kept"}
    assert (run.root / "cells").is_dir()


@pytest.mark.parametrize("name", OWN)
def test_links_are_found_at_any_depth(run: RunFolder, outside: Path, name: str) -> None:
    run.refuse_links()
    deep = run.root / name / "deep" / "deeper"
    deep.mkdir(parents=True)
    (deep / "link").symlink_to(outside / "kept.txt")
    with pytest.raises(StoreError, match=f"{name}/deep/deeper/link"):
        run.refuse_links()


def test_a_file_that_is_a_link_is_replaced_and_not_written_through(run: RunFolder, outside: Path) -> None:
    link = run.root / "report.html"
    link.symlink_to(outside / "kept.txt")
    run.write(link, b"new")
    assert (link.read_bytes(), link.is_symlink()) == (b"new", False)
    assert (outside / "kept.txt").read_text(encoding="utf-8") == "kept"


def test_the_folder_itself_may_be_a_link(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run.root)
    through = RunFolder(tmp_path / "link")
    through.write(through.root / "cells" / "a.json", b"{}")
    through.remove(through.root / "cells")
    assert not (run.root / "cells").exists()


@pytest.mark.parametrize("path", ["../elsewhere/kept.txt", "/etc/hostname"])
def test_a_path_outside_is_refused(run: RunFolder, outside: Path, path: str) -> None:
    with pytest.raises(StoreError, match="run's folder"):
        run.remove(run.root / path)
    assert (outside / "kept.txt").exists()


def test_a_folder_in_the_place_of_a_file_is_set_aside_under_a_free_name(run: RunFolder) -> None:
    for expected in ("leaderboard.csv.corrupt", "leaderboard.csv.corrupt-2"):
        file = run.root / "leaderboard.csv"
        file.unlink(missing_ok=True)
        (file / "inside").mkdir(parents=True)
        run.write(file, b"new")
        assert file.read_bytes() == b"new"
        assert (run.root / expected / "inside").is_dir()


def test_what_killed_processes_left_is_removed_and_nothing_else(run: RunFolder) -> None:
    kept = ["cells/a.json", "cells/b.json.corrupt", "artifacts/train-1.lock", "report.html", ".lock", "my.tmp"]
    litter = [
        ".report.html.0123456789abcdef0123456789abcdef.tmp",
        "cells/.a.json.0123456789abcdef0123456789abcdef.tmp",
        "checkpoints/cell/.train.pt.0123456789abcdef0123456789abcdef.tmp",
        "plots/.probe.1234.tmp",
        "artifacts/train-1.x8_d1",
        "artifacts/train-2.corrupt",
    ]
    for name in (*kept, *litter):
        path = run.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.startswith("artifacts/train-") and "lock" not in name else path.touch()
    removed = {str(path.relative_to(run.root)) for path in run.remove_litter()}
    assert removed == set(litter[:-1])
    assert all((run.root / name).exists() for name in (*kept, litter[-1]))


def test_a_full_disk_is_told_with_the_file(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"cannot write .*a\.json: No space left on device"):
        run.write(run.root / "cells" / "a.json", b"{}")
    assert list((run.root / "cells").iterdir()) == []


CHANGING = re.compile(
    r"\b(rmtree|unlink|rmdir|write_bytes|(?<!store\.)(?<!self\.)(?<!def )write_text|mkdir|rename|copyfile|savefig)\("
)
NOT_IN_A_RUN = {
    "harness/python/session.py": "a temporary folder",
    "harness/temporary.py": "temporary folders, and the cache",
    "harness/weights/locate.py": "the cache",
    "results/atomic.py": "any file; in a run's folder through RunFolder",
    "results/exchange/": "files that the user names",
    "results/plots/draw.py": "an image in memory",
    "results/run_folder.py": "the one way into a run's folder",
}


def test_no_other_module_writes_or_removes_in_a_runs_folder() -> None:
    root = Path(__file__).parents[2]
    files = [path for floor in ("harness", "results") for path in sorted((root / floor).rglob("*.py"))]
    names = [str(path.relative_to(root)) for path in files if CHANGING.search(path.read_text(encoding="utf-8"))]
    assert [name for name in names if not name.startswith(tuple(NOT_IN_A_RUN))] == []
    assert [place for place in NOT_IN_A_RUN if not any(name.startswith(place) for name in names)] == []

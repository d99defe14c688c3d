"""Temporary folders outlive no run for long, and a cache that cannot be written stops none."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hedgebench.harness.temporary import PREFIX, remove_abandoned, temporary_folder, writable_cache
from hedgebench.tasks.data.sources import cache_folder

KILLED = """
import os, signal, sys, tempfile
tempfile.tempdir = sys.argv[1]
from hedgebench.harness.temporary import temporary_folder
with temporary_folder() as folder:
    (folder / "log").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_and_what_is_in_use_stays(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    subprocess.run([sys.executable, "-c", KILLED, str(temporary)], check=False, timeout=60)
    (abandoned,) = temporary.glob(f"{PREFIX}*")
    assert (abandoned / "log").exists()
    target = temporary / "target"
    target.mkdir()
    (temporary / f"{PREFIX}link").symlink_to(target)
    ours = temporary / f"{PREFIX}results"
    ours.mkdir()
    with temporary_folder() as used:
        remove_abandoned()
        assert (used.is_dir(), abandoned.exists(), target.is_dir(), ours.is_dir()) == (True, False, True, True)
    assert not used.exists()


def test_a_cache_that_can_be_written_is_kept() -> None:
    before = cache_folder()
    with writable_cache() as note:
        assert (note, cache_folder()) == ("", before)


def test_a_cache_that_cannot_be_written_is_replaced_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.delenv("HF_HOME")
    with writable_cache() as note:
        assert "cannot be written (Not a directory)" in note
        assert cache_folder().is_relative_to(tempfile.gettempdir())
        assert os.environ["HF_HOME"] == str(tmp_path / "file" / "huggingface")
    assert cache_folder() == tmp_path / "file" / "hedgebench"
    assert "HF_HOME" not in os.environ

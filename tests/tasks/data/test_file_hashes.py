"""Tests of tasks/data/file_hashes.py."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from hedgebench.tasks.data import file_hashes
from hedgebench.tasks.data.file_hashes import digest, line_count


def test_a_small_file_is_read_each_time(tmp_path: Path) -> None:
    file, cache = tmp_path / "file", tmp_path / "cache"
    for content in (b"a\nb\n", b"c\n"):
        file.write_bytes(content)
        assert digest(file, cache) == hashlib.sha256(content).hexdigest()
        assert line_count(file, cache) == content.count(b"\n")
    assert not cache.exists()


@pytest.fixture
def kept_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes of files of any size and age are kept."""
    monkeypatch.setattr(file_hashes, "ALWAYS_READ_BYTES", 1)
    monkeypatch.setattr(file_hashes, "SETTLED_S", -1.0)


def test_hashes_of_a_large_file_are_kept_until_it_changes(
    tmp_path: Path, kept_at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, cache = tmp_path / "file", tmp_path / "cache"
    file.write_bytes(b"a\nb\n")
    known = digest(file, cache), line_count(file, cache)
    with monkeypatch.context() as patched:
        for name in ("_digest", "_lines"):
            patched.setattr(file_hashes, name, lambda file: pytest.fail(f"{file} was read again"))
        assert (digest(file, cache), line_count(file, cache)) == known
    file.write_bytes(b"a\nb\nc\n")
    assert line_count(file, cache) == 3
    assert digest(file, cache) == hashlib.sha256(b"a\nb\nc\n").hexdigest()


@pytest.mark.parametrize("is_replaced", [False, True])
def test_another_content_of_the_same_path_size_and_time_is_read(
    is_replaced: bool, tmp_path: Path, kept_at_once: None
) -> None:
    file, cache = tmp_path / "file", tmp_path / "cache"
    file.write_bytes(b"a\nb\n")
    before = file.stat()
    assert digest(file, cache) == hashlib.sha256(b"a\nb\n").hexdigest()
    time.sleep(0.02)  # the clock of the file system has ticked, as it has between any two programs
    other = tmp_path / "other" if is_replaced else file
    other.write_bytes(b"abc\n")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert digest(file, cache) == hashlib.sha256(b"abc\n").hexdigest()
    assert line_count(file, cache) == 1


def test_a_large_file_that_changed_a_moment_ago_is_read_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_hashes, "ALWAYS_READ_BYTES", 1)
    file, cache = tmp_path / "file", tmp_path / "cache"
    file.write_bytes(b"a\n")
    os.utime(file, ns=(0, 0))
    digest(file, cache)
    assert not cache.exists()

"""Tests of tasks/data/file_hashes.py."""

from __future__ import annotations

import hashlib
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


def test_hashes_of_a_large_file_are_kept_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_hashes, "ALWAYS_READ_BYTES", 1)
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

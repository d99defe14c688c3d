"""Files replaced as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from hedgebench.results.atomic import replacing


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    with replacing(tmp_path / "a" / "b") as handle:
        handle.write(b"content")
    assert (tmp_path / "a" / "b").read_bytes() == b"content"


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "b") as handle:
        handle.write(b"half" * (1 // 0))
    assert (tmp_path / "b").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]

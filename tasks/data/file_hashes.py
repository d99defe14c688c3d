"""Hashes and line counts of files; those of large files are kept under their path, size and time of change.

A data set of ten gigabytes is then read once, and not by each plan and each cell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from ...results.atomic import replacing

ALWAYS_READ_BYTES = 1 << 20
"""Smaller files are read each time."""


def digest(file: Path, cache: Path) -> str:
    """SHA-256 of a file's content, in hex; a large file's is kept below `cache`."""
    return _kept(file, cache / "digests", _digest)


def line_count(file: Path, cache: Path) -> int:
    """Lines of a file; a large file's is kept below `cache`."""
    return int(_kept(file, cache / "lines", _lines))


def _kept(file: Path, folder: Path, read: Callable[[Path], str]) -> str:
    status = file.stat()
    if status.st_size < ALWAYS_READ_BYTES:
        return read(file)
    key = hashlib.sha256(f"{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}".encode()).hexdigest()
    kept = folder / key
    if kept.is_file():
        return kept.read_text(encoding="ascii")
    found = read(file)
    with replacing(kept) as handle:
        handle.write(found.encode("ascii"))
    return found


def _digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _lines(file: Path) -> str:
    with file.open("rb") as handle:
        return str(sum(1 for _ in handle))

"""Hashes and line counts of whole files; those of large files are kept, so that ten gigabytes are read once.

A value is kept under the file's path, size, inode and times of modification and of status change. The time of status
change moves with every write and every replacement, and no program can set it back, unlike the time of modification.
The value of a file that changed a moment ago is not kept: a second write within the same tick of the clock would leave
no trace.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ...results.atomic import replacing
from ..base import Sources

ALWAYS_READ_BYTES = 1 << 20
"""Smaller files are read each time."""

SETTLED_S = 2.0
"""Seconds since a file's last change before its value is kept: the coarsest file-system clock ticks every 2 seconds."""


def digest(file: Path, cache: Path) -> str:
    """SHA-256 of a file's content, in hex; a large file's is kept below `cache`."""
    return _kept(file, cache / "digests", _digest)


def line_count(file: Path, cache: Path) -> int:
    """Lines of a file; a large file's is kept below `cache`."""
    return int(_kept(file, cache / "lines", _lines))


def hash_files(files: Mapping[str, Sequence[Path]], sources: Sources) -> str:
    """SHA-256 over the content of files, in the order of their splits and names."""
    total = hashlib.sha256()
    for split, paths in sorted(files.items()):
        for path in paths:
            total.update(f"{split}:{digest(path, sources.cache)}\n".encode())
    return total.hexdigest()


def datasets_cache(files: Mapping[str, Sequence[Path]], sources: Sources) -> str:
    """The folder in which the library `datasets` caches what it makes from files, one folder for each content.

    The library itself tells files apart by path and time of modification. If a file is replaced by another with the
    same path and time, its cache would return the rows of the earlier file.
    """
    return str(sources.cache / "datasets" / hash_files(files, sources)[:16])


def _kept(file: Path, folder: Path, read: Callable[[Path], str]) -> str:
    before = file.stat()
    if before.st_size < ALWAYS_READ_BYTES:
        return read(file)
    kept = folder / hashlib.sha256(f"{file.resolve()}\0{_version(before)}".encode()).hexdigest()
    if kept.is_file():
        return kept.read_text(encoding="ascii")
    found = read(file)
    is_settled = time.time() - max(before.st_mtime, before.st_ctime) > SETTLED_S
    if is_settled and _version(file.stat()) == _version(before):
        with replacing(kept) as handle:
            handle.write(found.encode("ascii"))
    return found


def _version(status: os.stat_result) -> str:
    """A text that changes whenever the file does."""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _lines(file: Path) -> str:
    with file.open("rb") as handle:
        return str(sum(1 for _ in handle))

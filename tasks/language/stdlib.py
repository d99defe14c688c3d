"""Perplexity on the source code of the running Python's own standard library, a corpus that needs no download.

Nothing is downloaded and nothing is shipped. The text differs between Python versions and distributions, so the record
holds the version and a hash of the content; only runs that agree on both compare.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import sysconfig
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...results.record import DataIdentity
from ..base import DataUnavailableError, Sources
from ..data.documents import Document
from .perplexity import Perplexity, corpus_info

_EXCLUDED_FOLDERS = frozenset({
    "site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "turtledemo", "lib2to3", "__pycache__",
    "encodings", "pydoc_data",
})  # fmt: skip
_MIN_BYTES = 200
_MAX_BYTES = 200_000


@dataclass(frozen=True)
class StandardLibrary:
    """Python files as documents, in the order of their names.

    Tests, programs (IDLE, turtledemo), lib2to3, generated tables (`encodings`, `pydoc_data`), installed packages, and
    files under 200 bytes or over 200 kB are left out. The hash of a file's name draws its split: 90 % train, 5 %
    validation, 5 % test.
    """

    def identify(self, splits: Sequence[str], sources: Sources) -> DataIdentity:  # noqa: ARG002
        """The Python version and a hash over names and contents."""
        files = read_files()
        content = "".join(f"{name}:{hashlib.sha256(text).hexdigest()}\n" for name, text in files.items())
        counts = Counter(map(split_of, files))
        return DataIdentity(
            id="python-stdlib",
            revision=platform.python_version(),
            fingerprint=hashlib.sha256(content.encode()).hexdigest(),
            source="embedded",
            splits={split: counts[split] for split in splits},
        )

    def documents(self, split: str, sources: Sources) -> list[Document]:  # noqa: ARG002
        """The files of one split."""
        return [
            Document(name, text.decode("utf-8", errors="replace"))
            for name, text in read_files().items()
            if split_of(name) == split
        ]


@functools.cache
def read_files() -> Mapping[str, bytes]:
    """Contents by name relative to the standard library's folder, sorted by name.

    Raises:
        DataUnavailableError: This Python keeps no source files, as some frozen or embedded ones do.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    paths = {path.relative_to(folder).as_posix(): path for path in _source_files(folder)}
    if not paths:
        raise DataUnavailableError(
            f"the standard library's source is not in {folder}; use a Python that keeps .py files, or another task"
        )
    return {name: paths[name].read_bytes() for name in sorted(paths)}


def _source_files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _EXCLUDED_FOLDERS]
        for path in (Path(place, name) for name in names if name.endswith(".py")):
            if _MIN_BYTES <= path.stat().st_size <= _MAX_BYTES:
                yield path


def split_of(name: str) -> str:
    """`train`, `validation` or `test`, from a file's name alone."""
    draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % 20
    return {0: "test", 1: "validation"}.get(draw, "train")


STDLIB = Perplexity(
    corpus_info(
        name="stdlib",
        summary="Perplexity on the source of Python's standard library; needs no download",
        data=("python-stdlib",),
        licence="PSF-2.0",
        citation="Python Software Foundation, the Python standard library",
    ),
    StandardLibrary(),
)

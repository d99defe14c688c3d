"""Compares what a GGUF file announces with its size, before anything of it is read into memory.

The file's format is that of llama.cpp, versions 2 and 3 in little-endian order. Each count comes before what it
counts, so a small file may announce any number of entries, and the `gguf` library would make room for them all.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..backbone import CheckpointError

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of the values of each type that has a fixed size."""
_STRING, _ARRAY = 8, 9
_LEAST_BYTES = {**_SIZES, _STRING: 8, _ARRAY: 12}
_VERSIONS = (2, 3)
_MOST_DIMENSIONS = 8
_MOST_NESTED = 4


def check_counts(gguf: Path) -> None:
    """Walks through the header of a file.

    Raises:
        CheckpointError: The file is no GGUF, is cut off, or announces more than it can hold.
        OSError: The file cannot be read.
    """
    with gguf.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        walk = _Walk(gguf, file, size)
        if walk.take(4) != b"GGUF":
            raise walk.refuse("it does not begin with GGUF")
        if (version := walk.number("<I")) not in _VERSIONS:
            raise walk.refuse(f"it has version {version}; known are {' and '.join(map(str, _VERSIONS))}")
        tensors, entries = walk.count(24, "tensors"), walk.count(13, "entries")
        for _ in range(entries):
            walk.skip(walk.count(1, "characters"))
            walk.value(walk.number("<I"))
        for _ in range(tensors):
            walk.tensor()


@dataclass
class _Walk:
    """A place in a file, which only moves on within the file.

    Attributes:
        path: The file's name, for errors.
        file: The file.
        size: Its bytes.
    """

    path: Path
    file: BinaryIO
    size: int

    def refuse(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is not a whole GGUF file ({reason}); download it again")

    def take(self, count: int) -> bytes:
        data = self.file.read(count)
        if len(data) < count:
            raise self.refuse("it ends within its header")
        return data

    def number(self, form: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def count(self, least_bytes: int, what: str) -> int:
        """A number of things, each of which takes some bytes of the rest of the file."""
        count = self.number("<Q")
        if count * least_bytes > self.size - self.file.tell():
            raise self.refuse(f"it announces {count:,} {what}, and has {self.size:,} bytes")
        return count

    def skip(self, count: int) -> None:
        if self.file.seek(count, 1) > self.size:
            raise self.refuse("it ends within its header")

    def value(self, kind: int, nested: int = 0) -> None:
        """Moves past a value of metadata."""
        if kind == _STRING:
            self.skip(self.count(1, "characters"))
        elif kind == _ARRAY and nested < _MOST_NESTED:
            of = self.number("<I")
            if of not in _LEAST_BYTES:
                raise self.refuse(f"it has a value of the unknown type {of}")
            count = self.count(_LEAST_BYTES[of], "values")
            if of in _SIZES:
                self.skip(count * _SIZES[of])
            else:
                for _ in range(count):
                    self.value(of, nested + 1)
        elif kind in _SIZES:
            self.skip(_SIZES[kind])
        else:
            raise self.refuse(f"it has a value of the unknown type {kind}")

    def tensor(self) -> None:
        """Moves past the description of a tensor."""
        self.skip(self.count(1, "characters"))
        if (dimensions := self.number("<I")) > _MOST_DIMENSIONS:
            raise self.refuse(f"it has a tensor of {dimensions:,} dimensions")
        self.skip(8 * dimensions + 4 + 8)

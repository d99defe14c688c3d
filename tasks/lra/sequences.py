"""Labelled sequences, and a cache for sequences that take long to make."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...adapters.base import Examples
from ...results.atomic import replacing
from ...results.foreign import parse_json
from ..base import Sources
from ..heavy import NDArray, np


@dataclass(frozen=True)
class Sequences:
    """Sequences of one split.

    Attributes:
        tokens: Token ids `[rows, n]`, or `[rows, towers, n]`, padded on the right, of any integer type.
        labels: Class ids, `[rows]`.
        lengths: Real tokens of each sequence, `[rows]` or `[rows, towers]`; None if no sequence is padded.
    """

    tokens: NDArray[Any]
    labels: NDArray[np.int32]
    lengths: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def first(self, rows: int | None) -> Sequences:
        """The first `rows` rows; all for None."""
        lengths = None if self.lengths is None else self.lengths[:rows]
        return Sequences(self.tokens[:rows], self.labels[:rows], lengths)

    def row_lengths(self) -> NDArray[np.int32]:
        """Real tokens of the longest sequence of each row, `[rows]`."""
        if self.lengths is None:
            return np.full(len(self), self.tokens.shape[-1], np.int32)
        longest: NDArray[np.int32] = self.lengths.reshape(len(self), -1).max(axis=1)
        return longest

    def batch(self, rows: NDArray[np.intp]) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Token ids of some rows, cut to the longest sequence among them, and a mask that is True at real tokens."""
        if self.lengths is None:
            return self.tokens[rows], None
        lengths = self.lengths[rows]
        columns = np.arange(max(1, int(lengths.max(initial=0))))
        return self.tokens[rows][..., : len(columns)], columns < lengths[..., None]

    def examples(self) -> Examples:
        """The rows as training examples."""
        mask = None if self.lengths is None else np.arange(self.tokens.shape[-1]) < self.lengths[..., None]
        return Examples(self.tokens, self.labels, mask)


@dataclass(frozen=True)
class SequenceCache:
    """Splits that are made once and kept in a folder.

    Attributes:
        folder: The folder.
        make: Makes every split, by its name.
    """

    folder: Path
    make: Callable[[], Mapping[str, Sequences]]

    @classmethod
    def keyed(cls, name: str, key: str, sources: Sources, make: Callable[[], Mapping[str, Sequences]]) -> SequenceCache:
        """A cache in a folder named after `name` and `key`; `key` has all that the result of `make` depends on."""
        return cls(sources.cache / "sequences" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}", make)

    def split(self, name: str) -> Sequences:
        """One split; the first call makes all splits."""
        _ = self.contents
        with np.load(self.folder / f"{name}.npz") as arrays:
            return Sequences(**arrays)

    @cached_property
    def contents(self) -> Mapping[str, Any]:
        """The hash of all splits (`fingerprint`) and the number of rows of each (`rows`).

        The file that holds them is written last: if it exists, so do all splits.
        """
        file = self.folder / "contents.json"
        if not file.is_file():
            splits = self.make()
            for name, sequences in splits.items():
                with replacing(self.folder / f"{name}.npz") as handle:
                    np.savez(handle, **{key: value for key, value in vars(sequences).items() if value is not None})
            contents = {"fingerprint": _hash(splits), "rows": {name: len(split) for name, split in splits.items()}}
            with replacing(file) as handle:
                handle.write(json.dumps(contents).encode())
        read: Mapping[str, Any] = parse_json(file.read_bytes())
        return read


def _hash(splits: Mapping[str, Sequences]) -> str:
    total = hashlib.sha256()
    for name, sequences in sorted(splits.items()):
        for key, array in vars(sequences).items():
            if array is not None:
                little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
                total.update(f"{name}.{key}:{array.shape}:{little_endian.dtype.str}\n".encode())
                total.update(little_endian.tobytes())
    return total.hexdigest()

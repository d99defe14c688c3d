"""Decoded pixels on disk: made once, mapped into memory, read a batch at a time.

ImageNet's training pictures have 193 GB at 224 pixels, more than most machines have memory. Each cell of a run is a
process of its own, and would decode its pictures again.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...results.atomic import replacing
from ...results.foreign import parse_json
from ..heavy import NDArray, np
from .pictures import LabelledPictures, StoredPicture, open_picture
from .readers import PictureReader

_AT_ONCE = 256
"""Pictures that are in memory together while they are decoded."""


@dataclass(frozen=True)
class PixelStore:
    """Pixels of a data set's pictures as one reader sees them.

    Attributes:
        folder: Folder of the files, one for each data set and reader.
        reader: The reader.
    """

    folder: Path
    reader: PictureReader

    def pixels(self, part: str, pictures: LabelledPictures, places: Sequence[int]) -> NDArray[np.uint8]:
        """Pixels `[rows, channels, height, width]` of some rows, mapped into memory; there must be at least one.

        Args:
            part: Name of the part; its name and number of rows decide which rows they are.
            pictures: The split that the rows are of.
            places: Their places in it.

        Raises:
            OSError: The disk has no space for them.
            ValueError: A row has no picture that can be read.
        """
        file = self._file(part, len(places))
        if not file.is_file():
            self._write(file, len(places), self._decoded(pictures, places))
        mapped: NDArray[np.uint8] = np.load(file, mmap_mode="r")
        return mapped

    def moments(self, part: str, pixels: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel of a part; the deviation is 1 where all pixels are alike."""
        file = self._file(part, len(pixels)).with_suffix(".json")
        if not file.is_file():
            with replacing(file) as handle:
                handle.write(json.dumps(_moments(pixels)).encode())
        mean, std = parse_json(file.read_bytes())
        return tuple(mean), tuple(std)

    def _file(self, part: str, rows: int) -> Path:
        return self.folder / f"{part}-{rows}.npy"

    def _decoded(self, pictures: LabelledPictures, places: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            for start in range(0, len(places), _AT_ONCE):
                chosen = places[start : start + _AT_ONCE]
                decoded = threads.map(partial(_decode, self.reader), chosen, pictures.fetch(chosen))
                yield np.stack(list(decoded))

    def _write(self, file: Path, rows: int, chunks: Iterator[NDArray[np.uint8]]) -> None:
        first = next(chunks)
        shape = (rows, *first.shape[1:])
        self.folder.mkdir(parents=True, exist_ok=True)
        if (needed := math.prod(shape)) > (free := shutil.disk_usage(self.folder).free):
            raise OSError(
                f"the pixels of {rows} pictures need {needed / 1e9:.2f} GB, and {self.folder} has {free / 1e9:.2f} GB "
                "free; set train_rows or test_rows, or choose another cache with XDG_CACHE_HOME"
            )
        npy: Any = np.lib.format
        with replacing(file) as handle:
            npy.write_array_header_1_0(handle, {"descr": "|u1", "fortran_order": False, "shape": shape})
            handle.write(first.tobytes())
            for chunk in chunks:
                if chunk.shape[1:] != shape[1:]:
                    raise ValueError(f"pictures come in sizes {shape[1:]} and {chunk.shape[1:]}; one size is allowed")
                handle.write(chunk.tobytes())


def _decode(reader: PictureReader, place: int, stored: StoredPicture) -> NDArray[np.uint8]:
    try:
        return reader.read(open_picture(stored))
    except (OSError, ValueError) as error:
        raise ValueError(f"row {place} cannot be read: {error}") from error


def _moments(pixels: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    total = squares = np.zeros(pixels.shape[1], np.int64)
    for start in range(0, len(pixels), _AT_ONCE):
        part = np.asarray(pixels[start : start + _AT_ONCE])
        total = total + part.sum((0, 2, 3), dtype=np.int64)
        squares = squares + np.square(part, dtype=np.uint32).sum((0, 2, 3), dtype=np.int64)
    count = math.prod(pixels.shape) // pixels.shape[1]
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return mean.tolist(), np.where(std > 0, std, 1.0).tolist()

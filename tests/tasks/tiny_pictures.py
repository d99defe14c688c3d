"""Small labelled pictures, written as the hub lays them out."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

SIZE = 8
NAMES = ("stripe", "dot", "edge")


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels `[height, width]` or `[height, width, 3]` as a PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def picture(label: int, seed: int, channels: int = 3) -> NDArray[np.uint8]:
    """A noisy picture of 8 by 8 pixels whose class is the third of its rows that is bright."""
    pixels = np.random.default_rng([label, seed]).integers(0, 60, (SIZE, SIZE, channels), dtype=np.uint8)
    pixels[3 * label : 3 * label + 2] += 180
    return pixels[..., 0] if channels == 1 else pixels


def write_rows(
    file: Path,
    pictures: Sequence[bytes | None],
    labels: Sequence[Any],
    names: Sequence[str] | None = NAMES,
    columns: tuple[str, str] = ("image", "label"),
) -> None:
    """A parquet file with a column of pictures and one of labels, which are plain values if they have no names."""
    kind = {"_type": "Value", "dtype": "string" if isinstance(labels[0], str) else "int64"}
    label = kind if names is None else {"_type": "ClassLabel", "names": list(names)}
    features = dict(zip(columns, ({"_type": "Image"}, label), strict=True))
    images = pa.array(
        [None if each is None else {"bytes": each, "path": None} for each in pictures],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table(dict(zip(columns, (images, pa.array(list(labels))), strict=True)))
    file.parent.mkdir(parents=True, exist_ok=True)
    described = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(described), file)


def write_tiny(mirror: Path, repo: str = "tiny/shapes", rows: int = 30, channels: int = 3, **more: Any) -> None:
    """The splits `train` and `test` of a data set of three classes."""
    for split, count, seed in (("train", rows, 0), ("test", 9, 1000)):
        labels = [i % 3 for i in range(count)]
        pictures = [png(picture(label, seed + i, channels)) for i, label in enumerate(labels)]
        write_rows(mirror / "datasets" / repo / "plain" / f"{split}-00000-of-00001.parquet", pictures, labels, **more)

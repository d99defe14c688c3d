"""Labelled pictures of one split, as they are stored: encoded in bytes or in files, or as grey pixels."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from ...results.record import DataIdentity
from ..base import Sources
from ..heavy import NDArray, np

if TYPE_CHECKING:
    from PIL.Image import Image

StoredPicture: TypeAlias = "bytes | Path | NDArray[np.uint8] | None"
"""A picture in an image format, a file of one, or grey pixels `[height, width]`; None where a row has none."""

TRAIN, TEST = "train", "test"
"""The roles of splits, whatever the data set calls them."""

_EIGHT_BITS = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "LAB"})
_GREY = frozenset({"1", "L", "LA", "La"})


@dataclass(frozen=True)
class LabelledPictures:
    """The pictures of one split.

    Attributes:
        fetch: Reads the stored pictures of the rows with these places.
        labels: Class id of each row.
        names: Names of the classes in the order of their ids.
    """

    fetch: Callable[[Sequence[int]], Sequence[StoredPicture]]
    labels: NDArray[np.int32]
    names: tuple[str, ...]

    def with_classes(self, names: tuple[str, ...]) -> LabelledPictures:
        """The same pictures with class ids that count through `names`.

        Raises:
            ValueError: A picture's class is not among them, or two classes have one name.
        """
        if self.names == names:
            return self
        if len(set(names)) < len(names):
            raise ValueError("two classes of the training split have one name, and the test split's names differ")
        if unknown := sorted({self.names[label] for label in np.unique(self.labels).tolist()} - set(names)):
            raise ValueError(f"classes of the test split are not in the training split: {', '.join(unknown[:5])}")
        ids = np.array([names.index(name) if name in names else -1 for name in self.names], np.int32)
        return replace(self, labels=ids[self.labels], names=names)


class PictureSource(Protocol):
    """Labelled pictures in the splits `train` and `test`."""

    def identify(self, roles: Sequence[str], sources: Sources) -> DataIdentity:
        """The identity of the pictures of these splits.

        Raises:
            DataUnavailableError: They are not available.
            ValueError: The data set lacks what its settings name.
        """
        ...

    def split(self, role: str, sources: Sources) -> LabelledPictures:
        """One split.

        Raises:
            DataUnavailableError: It is not available.
            ValueError: A row has no label.
        """
        ...


def class_ids(values: Sequence[str | int], where: str) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Ids and names of the classes that a column of labels holds, in the order of its sorted values.

    Raises:
        ValueError: A row has no label; `where` names the column.
    """
    if None in values:
        raise ValueError(f"{where} has {sum(value is None for value in values)} rows without a label")
    kinds = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    places = {kind: place for place, kind in enumerate(kinds)}
    return np.array([places[value] for value in values], np.int32), tuple(map(str, kinds))


def open_picture(stored: StoredPicture) -> Image:
    """The picture, upright, which is decoded when its pixels are first asked for.

    Raises:
        OSError: It is no picture, or a damaged one.
        ValueError: There is none, or its pixels have more than 8 bits.
    """
    from PIL import Image, ImageOps

    if stored is None:
        raise ValueError("the row has no picture")
    if not isinstance(stored, bytes | Path):
        return Image.fromarray(stored)
    picture = Image.open(io.BytesIO(stored) if isinstance(stored, bytes) else stored)
    if picture.mode not in _EIGHT_BITS:
        raise ValueError(f"its pixels are of the kind {picture.mode}, not of 8 bits a channel; convert it first")
    ImageOps.exif_transpose(picture, in_place=True)
    return picture


def is_grey(picture: Image) -> bool:
    """Whether a picture has no colour by its kind, whatever its pixels."""
    return picture.mode in _GREY

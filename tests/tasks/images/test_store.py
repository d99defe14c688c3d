"""Pixels on disk: written once, mapped into memory, and a row that cannot be read is named."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hedgebench.tasks.images import store as module
from hedgebench.tasks.images.pictures import LabelledPictures, StoredPicture
from hedgebench.tasks.images.readers import Resized
from hedgebench.tasks.images.store import PixelStore

from ..tiny_pictures import png


class Counted:
    """Pictures of 2 by 2 pixels, all of the value of their place, and how many were read."""

    def __init__(self, rows: int, broken: int | None = None) -> None:
        self.read = 0
        self.broken = broken
        self.pictures = LabelledPictures(self.fetch, np.zeros(rows, np.int32), ("a",))

    def fetch(self, places: Sequence[int]) -> list[StoredPicture]:
        self.read += len(places)
        return [b"no PNG" if p == self.broken else png(np.full((2, 2), p % 256, np.uint8)) for p in places]


@pytest.fixture
def store(tmp_path: Path) -> PixelStore:
    return PixelStore(tmp_path / "pixels", Resized(2, 1))


def test_pixels_come_in_the_order_asked_for_and_are_decoded_once(store: PixelStore) -> None:
    counted, places = Counted(700), [*range(600, 0, -1)]
    first = store.pixels("train", counted.pictures, places)
    again = store.pixels("train", counted.pictures, places)
    assert counted.read == 600
    assert isinstance(again, np.memmap)
    for pixels in (first, again):
        assert pixels.shape == (600, 1, 2, 2)
        assert (pixels == (np.array(places) % 256)[:, None, None, None]).all()


def test_parts_and_numbers_of_rows_have_files_of_their_own(store: PixelStore) -> None:
    counted = Counted(9)
    assert store.pixels("train", counted.pictures, [1, 2]).max() == 2
    assert store.pixels("train", counted.pictures, [1, 2, 3]).max() == 3
    assert store.pixels("test", counted.pictures, [5, 6]).max() == 6


def test_moments_are_those_of_each_channel(store: PixelStore) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (600, 3, 5, 4), dtype=np.uint8)
    mean, std = store.moments("train", pixels)
    np.testing.assert_allclose(mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std((0, 2, 3)), rtol=1e-12)
    assert store.moments("train", np.zeros_like(pixels)) == (mean, std)  # read back
    assert store.moments("blank", np.full_like(pixels, 7)) == ((7.0,) * 3, (1.0,) * 3)


def test_a_row_that_is_no_picture_is_named_and_leaves_nothing_behind(store: PixelStore) -> None:
    with pytest.raises(ValueError, match="row 4 cannot be read: cannot identify image"):
        store.pixels("train", Counted(6, broken=4).pictures, range(6))
    assert not [*store.folder.parent.rglob("*.npy")]


def test_a_disk_without_space_is_refused_before_anything_is_written(
    store: PixelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "shutil", SimpleNamespace(disk_usage=lambda _: shutil.disk_usage("/")._replace(free=7)))
    with pytest.raises(OSError, match=r"pixels of 2 pictures need .* set train_rows or test_rows"):
        store.pixels("train", Counted(2).pictures, range(2))

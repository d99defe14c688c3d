"""Pictures as they are stored, and the classes of their labels."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from hedgebench.tasks.images.pictures import LabelledPictures, StoredPicture, class_ids, is_grey, open_picture

from ..tiny_pictures import png


def labelled(labels: Sequence[int], *names: str) -> LabelledPictures:
    def fetch(places: Sequence[int]) -> list[StoredPicture]:
        return []

    return LabelledPictures(fetch, np.array(labels, np.int32), names)


def test_classes_count_through_the_sorted_values_of_a_column() -> None:
    ids, names = class_ids(["dog", "cat", "dog"], "label")
    assert (ids.tolist(), names) == ([1, 0, 1], ("cat", "dog"))
    ids, names = class_ids([7, 3, 10], "label")
    assert (ids.tolist(), names) == ([1, 0, 2], ("3", "7", "10"))


def test_a_row_without_a_label_is_refused() -> None:
    with pytest.raises(ValueError, match="column x has 1 rows without a label"):
        class_ids(["dog", None], "column x")  # type: ignore[list-item]


def test_test_classes_have_the_ids_of_the_training_classes() -> None:
    test = labelled([0, 1, 0], "b", "c").with_classes(("a", "b", "c"))
    assert (test.labels.tolist(), test.names) == ([1, 2, 1], ("a", "b", "c"))
    same = labelled([0, 1], "crane", "crane")
    assert same.with_classes(("crane", "crane")) is same


def test_a_class_that_is_not_trained_on_is_refused() -> None:
    with pytest.raises(ValueError, match="not in the training split: d"):
        labelled([0, 1], "a", "d").with_classes(("a", "b"))
    assert labelled([0, 0], "a", "d").with_classes(("a", "b")).labels.tolist() == [0, 0]
    with pytest.raises(ValueError, match="one name"):
        labelled([0, 1], "a", "b").with_classes(("b", "b"))


def test_pictures_of_all_kinds_of_8_bits_are_opened() -> None:
    grey, colour = np.full((2, 3), 9, np.uint8), np.zeros((2, 3, 3), np.uint8)
    for stored, alike in ((png(grey), True), (png(colour), False), (grey, True)):
        found = open_picture(stored)
        assert found.size == (3, 2)
        assert is_grey(found) == alike


def test_a_picture_is_turned_as_its_camera_says() -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(file, "PNG", exif=exif)
    assert np.asarray(open_picture(file.getvalue())).tolist() == [[0], [255]]


def test_pictures_of_more_bits_and_rows_without_one_are_refused() -> None:
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 4_000]], np.uint16)).save(file, "PNG")
    with pytest.raises(ValueError, match="of the kind I;16, not of 8 bits"):
        open_picture(file.getvalue())
    with pytest.raises(ValueError, match="no picture"):
        open_picture(None)

"""Pixels of one size: plain resizing by hand, and a checkpoint's own image processor to the last bit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from hedgebench.adapters.base import UnsupportedError
from hedgebench.tasks.base import BackboneTokenizer
from hedgebench.tasks.images.pictures import LabelledPictures, StoredPicture
from hedgebench.tasks.images.readers import PROCESSOR, Processed, Resized, reader_for

VIT: dict[str, Any] = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 8, "width": 8},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
OTHERS: Sequence[dict[str, Any]] = (
    {},
    {"resample": 3, "image_mean": [0.48, 0.45, 0.41], "image_std": [0.23, 0.22, 0.24]},
    {"size": {"height": 6, "width": 10}},
    {"do_normalize": False},
    {"do_rescale": False, "do_normalize": False},
    {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 9},
        "do_center_crop": True,
        "crop_size": {"height": 8, "width": 8},
    },
)


@pytest.fixture
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8))


def checkpoint(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / PROCESSOR).write_text(json.dumps({**VIT, **changes}), encoding="utf-8")
    return folder


def stored(*pictures: np.ndarray) -> LabelledPictures:
    def fetch(places: Sequence[int]) -> list[StoredPicture]:
        return [pictures[place] for place in places]

    return LabelledPictures(fetch, np.zeros(len(pictures), np.int32), ("a", "b"))


@pytest.mark.parametrize("changes", OTHERS)
def test_a_checkpoint_reads_as_its_image_processor_does(
    tmp_path: Path, photo: Image.Image, changes: dict[str, Any]
) -> None:
    folder = checkpoint(tmp_path, **changes)
    reader = Processed("tiny", "f00d", folder)
    auto: Any = AutoImageProcessor
    theirs = auto.from_pretrained(folder, backend="pil")(photo, return_tensors="np")["pixel_values"]
    pixels = reader.read(photo)
    assert pixels.dtype == np.uint8
    ours = reader.inputs.normalised(torch.from_numpy(pixels[None])).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_grey_pictures_become_rgb_for_a_checkpoint(tmp_path: Path) -> None:
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    pixels = Processed("tiny", "f00d", checkpoint(tmp_path)).read(grey)
    assert pixels.shape == (3, 8, 8)
    assert (pixels == np.asarray(grey)).all()


def test_pictures_of_the_right_size_are_not_touched() -> None:
    colour = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    assert (Resized(4, 3).read(Image.fromarray(colour)) == colour.transpose(2, 0, 1)).all()


def test_resizing_takes_the_mean_of_what_a_pixel_covers() -> None:
    halves = np.repeat(np.array([[0, 200]], np.uint8), 8, axis=0).repeat(4, axis=1)
    assert Resized(4, 1).read(Image.fromarray(np.full((8, 8), 77, np.uint8))).tolist() == [[[77] * 4] * 4]
    found = Resized(4, 1).read(Image.fromarray(halves))[0]
    assert (found == found[0]).all()
    assert found[0, 0] == 0
    assert found[0, -1] == 200
    assert found.mean() == 100
    assert Resized(2, 3).read(Image.fromarray(halves)).shape == (3, 2, 2)


def test_colour_becomes_grey_by_the_weights_of_itu_r_601() -> None:
    red_green_blue = np.diag([255, 255, 255]).astype(np.uint8)[None]
    found = Resized(3, 1).read(Image.fromarray(np.repeat(red_green_blue, 3, axis=0)))[0, 0]
    assert found.tolist() == [76, 150, 29]


def test_sizes_and_channels_are_those_of_the_data_unless_they_are_set() -> None:
    grey, colour = np.zeros((6, 6), np.uint8), np.zeros((6, 6, 3), np.uint8)
    assert reader_for(None, None, None, stored(grey, grey)) == Resized(6, 1)
    assert reader_for(None, None, None, stored(grey, colour)) == Resized(6, 3)
    assert reader_for(None, 12, 1, stored(grey, colour)) == Resized(12, 1)


def test_a_first_picture_that_is_not_square_wants_a_size() -> None:
    with pytest.raises(ValueError, match="has 4 by 6 pixels; set image_size"):
        reader_for(None, None, None, stored(np.zeros((6, 4), np.uint8)))


@pytest.mark.parametrize(("size", "channels"), [(16, None), (None, 1)])
def test_a_checkpoint_refuses_another_size(tmp_path: Path, size: int | None, channels: int | None) -> None:
    backbone = BackboneTokenizer("tiny", "f00d", checkpoint(tmp_path))
    pictures = stored(np.zeros((6, 6), np.uint8))
    assert isinstance(reader_for(backbone, 8, 3, pictures), Processed)
    with pytest.raises(UnsupportedError, match="backbone tiny reads pictures as 3 channels of 8 by 8 pixels"):
        reader_for(backbone, size, channels, pictures)


def test_a_checkpoint_that_does_not_say_how_it_reads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=f"backbone tiny has no {PROCESSOR}"):
        reader_for(BackboneTokenizer("tiny", "f00d", tmp_path), None, None, stored(np.zeros((6, 6), np.uint8)))

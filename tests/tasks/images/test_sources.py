"""Pictures of the hub's layout and of local folders: splits, columns, classes, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hedgebench.results.names import UnknownNameError
from hedgebench.tasks.base import DataUnavailableError, Sources
from hedgebench.tasks.images.folder import PictureFolder
from hedgebench.tasks.images.hub import HubPictures
from hedgebench.tasks.images.pictures import open_picture
from hedgebench.tasks.images.settings import AnyPictureSettings

from ..tiny_pictures import NAMES, picture, png, write_rows, write_tiny

SPLITS = ("train", "test")


def named(**settings: str) -> HubPictures:
    source = AnyPictureSettings(**{"dataset": "tiny/shapes", **settings}).source  # type: ignore[arg-type]
    assert isinstance(source, HubPictures)
    return source


@pytest.fixture
def mirror(sources: Sources) -> Path:
    assert sources.mirror is not None
    write_tiny(sources.mirror)
    return sources.mirror


def test_a_data_set_is_read_by_its_name_alone(mirror: Path, sources: Sources) -> None:
    identity = named().identify(SPLITS, sources)
    assert (identity.id, identity.source, identity.splits) == ("tiny/shapes/plain", "mirror", {"train": 30, "test": 9})
    test = named().split("test", sources)
    assert test.names == NAMES
    assert test.labels.tolist() == [0, 1, 2] * 3
    (found,) = test.fetch([4])
    assert (np.asarray(open_picture(found)) == picture(1, 1004)).all()


def test_splits_and_columns_have_the_names_that_are_given(mirror: Path, sources: Sources) -> None:
    swapped = named(train_split="test", test_split="train", config="plain")
    assert swapped.identify(("train",), sources).splits == {"test": 9}
    with pytest.raises(UnknownNameError, match=r"given as image, 'img'.*allowed: image, label"):
        named(image="img").identify(SPLITS, sources)
    with pytest.raises(ValueError, match=r"image is the column 'label' .* which holds int64 in split train"):
        named(image="label").identify(SPLITS, sources)


def test_labels_without_names_are_classes_by_their_values(mirror: Path, sources: Sources) -> None:
    folder = mirror / "datasets" / "tiny" / "texts" / "default"
    pictures = [png(picture(0, i)) for i in range(3)]
    for split in SPLITS:
        write_rows(folder / f"{split}-0.parquet", pictures, ["wolf", "cat", "wolf"], names=None)
    found = named(dataset="tiny/texts").split("train", sources)
    assert (found.labels.tolist(), found.names) == ([1, 0, 1], ("cat", "wolf"))


def test_rows_without_a_label_are_refused(mirror: Path, sources: Sources) -> None:
    file = mirror / "datasets" / "tiny" / "hidden" / "default" / "test-0.parquet"
    write_rows(file, [png(picture(0, i)) for i in range(3)], [-1, -1, 0])
    with pytest.raises(ValueError, match=r"split test has 2 rows without a label \(-1\)"):
        named(dataset="tiny/hidden").split("test", sources)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": ""}, "dataset is not set; name one as in images:dataset=ORG/NAME"),
        ({"dataset": "shapes"}, "it takes ORG/NAME"),
        ({"revision": "main"}, "40 hex digits"),
        ({"train_split": "test"}, "train_split and test_split are both 'test'"),
    ],
)
def test_names_that_lead_nowhere_are_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        named(**settings)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, rows in (("train", 4), ("test", 2)):
        for label, name in enumerate(("zebra", "ant") if split == "train" else ("zebra",)):
            at = tmp_path / "animals" / split / name
            at.mkdir(parents=True)
            (at / "notes.txt").write_text("no picture")
            for i in range(rows):
                Image.fromarray(picture(label, i)).save(at / f"{i}.{'PNG' if i else 'jpg'}")
    return tmp_path / "animals"


def test_a_folder_for_each_class_is_a_data_set(folder: Path, sources: Sources) -> None:
    source = AnyPictureSettings(dataset=str(folder)).source
    assert source == PictureFolder(folder)
    identity = source.identify(SPLITS, sources)
    assert (identity.source, identity.splits) == ("folder", {"train": 8, "test": 2})
    train, test = (source.split(role, sources) for role in SPLITS)
    assert train.names == ("ant", "zebra")
    assert train.labels.tolist() == [0] * 4 + [1] * 4
    assert test.with_classes(train.names).labels.tolist() == [1, 1]
    assert (np.asarray(open_picture(train.fetch([5])[0])) == picture(0, 1)).all()


def test_the_fingerprint_of_a_folder_is_that_of_its_files_and_their_classes(folder: Path, sources: Sources) -> None:
    source = PictureFolder(folder)
    before = source.identify(SPLITS, sources).fingerprint
    assert source.identify(SPLITS, sources).fingerprint == before
    (folder / "train" / "ant" / "1.PNG").rename(folder / "train" / "zebra" / "9.PNG")
    assert source.identify(SPLITS, sources).fingerprint != before


def test_a_folder_without_pictures_says_what_it_wants(tmp_path: Path, sources: Sources) -> None:
    with pytest.raises(DataUnavailableError, match=r"train has no pictures; give a folder with train/CLASS/FILE"):
        PictureFolder(tmp_path).identify(SPLITS, sources)


def test_the_digits_of_a_real_mirror_are_read_by_name_alone(real_mirror: Path, sources: Sources) -> None:
    if not (real_mirror / "datasets" / "local" / "mnist-10k").is_dir():
        pytest.skip(f"{real_mirror} has no local/mnist-10k")
    here = replace(sources, mirror=real_mirror)
    source = named(dataset="local/mnist-10k")
    assert source.identify(SPLITS, here).splits == {"train": 7996, "test": 2004}
    test = source.split("test", here)
    assert test.names == tuple("0123456789")
    assert set(test.labels.tolist()) == set(range(10))
    first = open_picture(test.fetch([0])[0])
    assert (first.mode, first.size) == ("L", (28, 28))

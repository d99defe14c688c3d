"""Settings of image classification."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..data.named import check_names
from ..data.sources import DatasetId
from ..settings import check_ranges
from .folder import PictureFolder
from .hub import HubPictures
from .pictures import PictureSource


@dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """How pictures are read and scored.

    Attributes:
        image_size: Pixels of a side, to which pictures are resized; None for those of the first training picture. A
            pretrained backbone reads pictures in its own size, and refuses another.
        channels: 1 for grey or 3 for RGB; None for RGB if one of the first 100 training pictures has colours. A
            pretrained backbone has its own.
        flips: Whether training mirrors half of the pictures from left to right.
        shift: Most pixels by which training moves a picture along each axis.
        train_rows: Training rows, drawn with a fixed seed out of those that are not held out; None for all. 0 reads no
            training split, for a pretrained model that is not trained here.
        test_rows: Test rows, drawn with a fixed seed; None for all.
        batch_size: Pictures per forward pass in evaluation.
        more_metrics: Metrics beside accuracy; see `metrics/requested.py`.

    Raises:
        ValueError: A number is out of its range.
    """

    image_size: int | None = None
    channels: int | None = None
    flips: bool = False
    shift: int = 0
    train_rows: int | None = None
    test_rows: int | None = None
    batch_size: int = 128
    more_metrics: str = ""

    def __post_init__(self) -> None:
        check_ranges(self, dict.fromkeys(("image_size", "test_rows", "batch_size"), (1, None)))
        check_ranges(self, dict.fromkeys(("shift", "train_rows"), (0, None)))
        if self.channels not in (None, 1, 3):
            raise ValueError(f"channels is {self.channels}; allowed: 1 for grey, 3 for RGB, none for those of the data")


@dataclass(frozen=True, kw_only=True)
class AnyPictureSettings(PictureSettings):
    """Settings of a task whose data set they name.

    Attributes:
        dataset: Repository in the layout of the hub, `ORG/NAME`, or a local folder, which begins with `/`, `.` or `~`.
        config: Folder of the repository that holds the parquet files; empty for the only one there is.
        revision: Commit on the hub, in full; empty where only the mirror is meant.
        image: Column of the pictures.
        label: Column of their classes.
        train_split: Split that models are trained on.
        test_split: Split that models are tested on.
    """

    dataset: str = ""
    config: str = ""
    revision: str = ""
    image: str = "image"
    label: str = "label"
    train_split: str = "train"
    test_split: str = "test"

    @property
    def source(self) -> PictureSource:
        """The data set.

        Raises:
            ValueError: No data set is named, its name has another form, or one split is to train and to test.
        """
        if not self.dataset:
            raise ValueError(
                "dataset is not set; name one as in images:dataset=ORG/NAME or images:dataset=/FOLDER, which has "
                "train/CLASS/FILE and test/CLASS/FILE"
            )
        if self.train_split == self.test_split:
            raise ValueError(f"train_split and test_split are both {self.test_split!r}; allowed: two splits")
        if self.dataset.startswith(("/", ".", "~")):
            return PictureFolder(Path(self.dataset).expanduser().resolve(), self.train_split, self.test_split)
        check_names(self.dataset, self.revision, "uoft-cs/cifar10")
        dataset = DatasetId(self.dataset, self.config, self.revision)
        return HubPictures(dataset, self.image, self.label, self.train_split, self.test_split)

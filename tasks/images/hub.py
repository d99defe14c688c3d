"""Labelled pictures of data sets in the layout of the hub: parquet files with a column of encoded pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...results.names import unknown_name
from ...results.record import DataIdentity
from ..base import Sources
from ..data.named import only_config
from ..data.sources import DatasetId, find_dataset, identify_dataset, open_parquet, read_split
from ..heavy import np
from .pictures import TEST, TRAIN, LabelledPictures, StoredPicture, class_ids


@dataclass(frozen=True)
class HubPictures:
    """A data set of pictures and their classes.

    Attributes:
        dataset: Where it is; an empty `config` stands for the only one there is. Its splits are `train` and `test`.
        image: Column of the pictures.
        label: Column of the classes: named class ids, numbers or texts.
        train: Split that models are trained on.
        test: Split that models are tested on.
    """

    dataset: DatasetId
    image: str = "image"
    label: str = "label"
    train: str = TRAIN
    test: str = TEST

    def identify(self, roles: Sequence[str], sources: Sources) -> DataIdentity:
        """The parquet files in the mirror, or the revision on the hub.

        Raises:
            DataUnavailableError: A split is not available.
            ValueError: A column does not exist, or there are several configurations and none is set.
        """
        dataset = self._dataset(roles, sources)
        for split, files in find_dataset(dataset, sources).files.items():
            self._check(split, open_parquet(files[0]).schema_arrow)
        return identify_dataset(dataset, sources, {"image": self.image, "label": self.label})

    def split(self, role: str, sources: Sources) -> LabelledPictures:
        """One split.

        Raises:
            DataUnavailableError: It is not available.
            ValueError: A column does not exist, holds no pictures, or a row has no label.
        """
        dataset = self._dataset((role,), sources)
        (split,) = dataset.splits
        rows = read_split(dataset, split, sources)
        self._check(split, rows.features.arrow_schema)
        where = f"column {self.label!r} of {dataset.repo} in split {split}"
        if names := getattr(rows.features[self.label], "names", None):
            labels = np.array(rows[self.label][:], np.int32)
            if len(labels) and labels.min() < 0:
                raise ValueError(f"{where} has {int((labels < 0).sum())} rows without a label (-1)")
            names = tuple(names)
        else:
            labels, names = class_ids(rows[self.label][:], where)
        return LabelledPictures(_fetching(rows, self.image), labels, names)

    def _dataset(self, roles: Sequence[str], sources: Sources) -> DatasetId:
        splits = tuple({TRAIN: self.train, TEST: self.test}[role] for role in roles)
        found = self.dataset
        config = found.config or only_config(found.repo, found.revision, self.test, sources)
        return replace(found, config=config, splits=splits)

    def _check(self, split: str, schema: Any) -> None:
        """Refuses columns that the Arrow schema of a split lacks, or that hold no encoded pictures in it."""
        columns = dict(zip(schema.names, map(str, schema.types), strict=True))
        for setting in ("image", "label"):
            if (name := getattr(self, setting)) not in columns:
                where = f"column of {self.dataset.repo} in split {split}, given as {setting},"
                raise unknown_name(where, name, columns)
        if "binary" not in columns[self.image]:
            raise ValueError(
                f"image is the column {self.image!r} of {self.dataset.repo}, which holds {columns[self.image]} in "
                f"split {split}; allowed: encoded pictures"
            )


def _fetching(rows: Any, column: str) -> Callable[[Sequence[int]], Sequence[StoredPicture]]:
    """Reads the stored pictures of a `datasets.Dataset` by place, without decoding them."""
    import datasets

    stored = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))

    def fetch(places: Sequence[int]) -> list[StoredPicture]:
        return [None if each is None else each["bytes"] for each in stored[list(places)][column]]

    return fetch

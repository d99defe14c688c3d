"""Labelled pictures in a local folder: `FOLDER/SPLIT/CLASS/FILE`, a folder for each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...results.record import DataIdentity
from ..base import DataUnavailableError, Sources
from ..data.file_hashes import hash_files
from .pictures import TEST, TRAIN, LabelledPictures, StoredPicture, class_ids

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class PictureFolder:
    """Pictures below a folder; the name of the folder that holds a picture is its class.

    The fingerprint is that of the files' content and names: every file is read when a run is planned.

    Attributes:
        folder: The folder.
        train: Folder in it with the pictures that models are trained on.
        test: Folder in it with the pictures that models are tested on.
    """

    folder: Path
    train: str = TRAIN
    test: str = TEST

    def identify(self, roles: Sequence[str], sources: Sources) -> DataIdentity:
        """The files of these splits.

        Raises:
            DataUnavailableError: A split has none.
        """
        files = {self._name(role): self._files(role) for role in roles}
        named = {f"{split}/{file.parent.name}/{file.name}": (file,) for split, found in files.items() for file in found}
        rows = {split: len(found) for split, found in files.items()}
        return DataIdentity(str(self.folder), "", hash_files(named, sources), "folder", rows)

    def split(self, role: str, sources: Sources) -> LabelledPictures:  # noqa: ARG002
        """One split, its rows in the order of their classes and names.

        Raises:
            DataUnavailableError: It has no pictures.
        """
        files = self._files(role)
        labels, names = class_ids([file.parent.name for file in files], str(self.folder))

        def fetch(places: Sequence[int]) -> list[StoredPicture]:
            return [files[place] for place in places]

        return LabelledPictures(fetch, labels, names)

    def _name(self, role: str) -> str:
        return {TRAIN: self.train, TEST: self.test}[role]

    def _files(self, role: str) -> list[Path]:
        within = self.folder / self._name(role)
        files = sorted(file for file in within.glob("*/*") if file.suffix.lower() in SUFFIXES)
        if not files:
            raise DataUnavailableError(
                f"{within} has no pictures; give a folder with train/CLASS/FILE and test/CLASS/FILE (other names: "
                f"train_split, test_split), files ending in {', '.join(SUFFIXES)}"
            )
        return files

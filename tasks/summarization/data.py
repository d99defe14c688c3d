"""Data sets of texts and their summaries: the splits and columns that are read, checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...results.names import unknown_name
from ...results.record import DataIdentity, Scalar
from ..base import Sources
from ..data.named import check_names, only_config
from ..data.sources import (
    DatasetId,
    find_dataset,
    identify_dataset,
    open_parquet,
    read_split,
    shuffled_places,
)

ID = "id"
"""Column that names the rows, if the data set has it."""

_COLUMNS = ("source", "target")
_TEXT = frozenset({"string", "large_string", "string_view"})


@dataclass(frozen=True)
class Pair:
    """A text and its summaries.

    Attributes:
        id: Its name in the data set; its place if rows have no names.
        place: Its index in its split.
        source: The text.
        references: Its summaries, at least one.
    """

    id: str
    place: int
    source: str
    references: tuple[str, ...]

    @property
    def target(self) -> str:
        """The summary that a model learns: the first."""
        return self.references[0]


@dataclass(frozen=True)
class SummaryData:
    """A data set of texts and their summaries.

    Attributes:
        repo: Such as `knkarthick/samsum`.
        source: Column of the texts.
        target: Column of the summaries; several are joined by `+`, such as `summary1+summary2`.
        train: Split that is trained on.
        validation: Split that training is validated on; None for none.
        test: Split that models are tested on.
        test_source: Column of the texts in the test split; empty if it is `source`.
        test_target: Columns of the summaries in the test split; empty if they are those of `target`.
        config: Folder of the repository that holds the parquet files; empty if there is only one.
        revision: Commit on the hub, in full; empty if only the mirror may be read.

    Raises:
        ValueError: A value is missing or malformed, or the test split is also the training or validation split.
    """

    repo: str
    source: str
    target: str
    train: str = "train"
    validation: str | None = "validation"
    test: str = "test"
    test_source: str = ""
    test_target: str = ""
    config: str = ""
    revision: str = ""

    def __post_init__(self) -> None:
        for name in ("repo", "source", "target", "train", "test"):
            if not getattr(self, name):
                key = {"repo": "dataset", "train": "train_split", "test": "test_split"}.get(name, name)
                example = "dataset=knkarthick/samsum, source=dialogue and target=summary"
                raise ValueError(f"{key} is not set; a data set is named as in {example}")
        check_names(self.repo, self.revision, "knkarthick/samsum")
        if self.test in (self.train, self.validation):
            raise ValueError(
                f"test_split is {self.test!r}, and so is train_split or validation_split; what is reported must not "
                "choose or train the model; validation_split=none does without validation"
            )

    def identify(self, splits: Sequence[str], sources: Sources, details: Mapping[str, Scalar]) -> DataIdentity:
        """Which files or which revision `pairs` would read of these splits.

        Raises:
            DataUnavailableError: A split is not available.
            ValueError: A column does not exist or holds no text, or there are several configurations and none is set.
        """
        dataset = self._dataset(splits, sources)
        for split, files in find_dataset(dataset, sources).files.items():
            self._check_columns(split, open_parquet(files[0]).schema_arrow)
        columns = {name: getattr(self, name) for name in ("source", "target", "test_source", "test_target")}
        named = {name: value for name, value in columns.items() if value}
        return identify_dataset(dataset, sources, {**named, **details})

    def pairs(self, split: str, sources: Sources, most: int | None = None) -> tuple[list[Pair], int]:
        """Pairs of a split, and how many rows were left out because their text or summary is empty.

        Args:
            split: The split.
            sources: Where data may come from.
            most: Rows to take, drawn with a fixed seed; None for all. Test rows come in the order of the data. Other
                rows come in the order in which they are drawn, so that a smaller number takes the first of a larger.

        Raises:
            DataUnavailableError: The split is not available.
            ValueError: A column does not exist or holds no text, or there are several configurations and none is set.
        """
        rows = read_split(self._dataset((split,), sources), split, sources)
        self._check_columns(split, rows.features.arrow_schema)
        places = shuffled_places(len(rows))[:most]
        places = sorted(places) if split == self.test else places
        chosen = rows.select(places)
        ids: Iterable[Any] = chosen[ID][:] if ID in rows.column_names else places
        (_, source), *targets = self._columns(split)
        summaries = zip(*(chosen[name][:] for _, name in targets), strict=True)
        pairs = (
            Pair(str(name), place, text or "", tuple(each for each in references if (each or "").strip()))
            for name, place, text, references in zip(ids, places, chosen[source][:], summaries, strict=True)
        )
        kept = [pair for pair in pairs if pair.source.strip() and pair.references]
        return kept, len(places) - len(kept)

    def _columns(self, split: str) -> list[tuple[str, str]]:
        """The columns that are read of a split, each after the setting that names it: the texts, then summaries."""
        prefix = {name: "test_" if split == self.test and getattr(self, f"test_{name}") else "" for name in _COLUMNS}
        source, target = (f"{prefix[name]}{name}" for name in _COLUMNS)
        return [(source, getattr(self, source)), *((target, name) for name in getattr(self, target).split("+"))]

    def _dataset(self, splits: Sequence[str], sources: Sources) -> DatasetId:
        config = self.config or only_config(self.repo, self.revision, self.test, sources)
        return DatasetId(self.repo, config, self.revision, tuple(splits))

    def _check_columns(self, split: str, schema: Any) -> None:
        """Refuses columns of a split that its Arrow schema does not have, or that hold no text in it."""
        columns = {name: str(kind) for name, kind in zip(schema.names, schema.types, strict=True)}
        for setting, name in self._columns(split):
            if name not in columns:
                raise unknown_name(f"column of {self.repo} in split {split}, given as {setting},", name, columns)
            if columns[name] not in _TEXT:
                raise ValueError(
                    f"{setting} is the column {name!r} of {self.repo}, which holds {columns[name]}; allowed: text"
                )

"""`summarization` on data of the user's: local files beside the data sets that `protocol.py` reads.

    bench run --tasks summarization:file=PATH:source=COLUMN:target=COLUMN --backbone smollm2-135m ...

The texts and summaries of files, with one summary or several for each text, are kept in the layout of the hub in the
cache, one copy for each content, and read by the protocol as any data set. Without `file`, the task is the protocol's
own.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ...adapters.base import Adapter, Settings
from ...results.record import DataIdentity, Metric
from ..base import Row, Sources, Task, TaskData, TaskInfo
from ..data.own_rows import OwnData, OwnRows, in_hub_layout
from ..own_data import check_pretrained, settings_for, with_recipes
from ..settings import parse_settings
from . import protocol
from .data import ID, SummaryData
from .settings import AnyDataSettings, SummarizationSettings

if TYPE_CHECKING:
    from pyarrow import Table


@dataclass(frozen=True)
class FileSummaries:
    """Texts and summaries in local files.

    Attributes:
        file: A file or folder of JSON lines, CSV or parquet; see `local_files.py`. Empty for a data set of the hub.
        chosen: The other settings.
    """

    file: str
    chosen: AnyDataSettings

    @classmethod
    def of(cls, settings: Settings) -> FileSummaries:
        """The texts and summaries that settings name.

        Raises:
            ValueError: A setting is unknown or has a wrong value.
        """
        return cls(str(settings.get("file") or ""), parse_settings(AnyDataSettings, _for_hub(settings)))

    @property
    def named(self) -> OwnData:
        """The name of the data; raises the errors of `OwnData`."""
        train = self.chosen.train_split if self.chosen.train_rows != 0 else None
        validation = self.chosen.validation_split if train else None
        names = self.chosen.dataset, self.chosen.config, self.chosen.revision
        return OwnData(self.file, *names, train, validation, self.chosen.test_split)

    def columns(self, role: str) -> tuple[str, tuple[str, ...]]:
        """The column of the texts in a role's rows, and those of the summaries."""
        source, target = self.chosen.source, self.chosen.target
        if role == "test":
            source, target = self.chosen.test_source or source, self.chosen.test_target or target
        return source, tuple(target.split("+"))

    def identity(self, rows: OwnRows, sources: Sources) -> DataIdentity:
        """The identity of the rows, with the columns that are read."""
        names = ("source", "target", "test_source", "test_target")
        return rows.identity(sources, **{name: getattr(self.chosen, name) for name in names})


@dataclass(frozen=True)
class KeptSummaries(SummaryData):
    """Texts and summaries that are kept in a local folder, whose path is `repo`."""

    def __post_init__(self) -> None:
        """Checks nothing: the names are ours."""


@dataclass(frozen=True)
class OwnSummaries:
    """The task; see the module's docstring.

    Attributes:
        info: The declaration.
        extends: The task on data sets of the hub.
    """

    info: TaskInfo
    extends: protocol.Summarization

    def decided(self, settings: Settings, data: DataIdentity | None) -> Task:
        """The protocol's own task without `file`; nothing is trained on files without a training split."""
        asked = FileSummaries.of(settings)
        if not asked.file:
            return self.extends
        return replace(self, info=with_recipes(self.info, data, lambda: asked.named))

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """Which rows and which tokenizer `load` would use, and what scores the summaries.

        Raises:
            DataUnavailableError: The data or the tokenizer are not available.
            ValueError: A setting is wrong, or names what does not exist or holds no text.
        """
        task, chosen, there = self._protocol(settings, sources)
        identity = task.identify(chosen, there)
        if not settings.get("file"):
            return identity
        asked = FileSummaries.of(settings)
        own = asked.identity(asked.named.find(sources), sources)
        return replace(own, details={**identity.details, **own.details})

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        """Tokenizes the rows, as `Summarization` does.

        Raises:
            DataUnavailableError: The data or a requested metric are not available.
            ValueError: As those of `identify` and of `Summarization`.
        """
        task, chosen, there = self._protocol(settings, sources)
        return task.load(chosen, there, limit)

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """What the model writes for each test row, with its ROUGE, as `Summarization` gives it."""
        return self.extends.predict(adapter, data, _for_hub(settings))

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        """ROUGE of the rows' texts and statistics of their lengths, as `Summarization` computes them."""
        return self.extends.score(rows, _for_hub(settings))

    def _protocol(self, settings: Settings, sources: Sources) -> tuple[protocol.Summarization, Settings, Sources]:
        """The protocol, and the settings and sources that it takes.

        Raises:
            DataUnavailableError: The data are not available.
            ValueError: As those of `identify`, or a model from scratch has nothing to learn from.
        """
        asked = FileSummaries.of(settings)
        if not asked.file:
            return self.extends, _for_hub(settings), sources
        rows, shared = asked.named.find(sources), settings_for(SummarizationSettings, asked.chosen)
        if "train" not in rows.files:
            check_pretrained(rows.id, sources)
            shared["train_rows"] = 0
        own = asked.identity(rows, sources)
        for role in rows.files:
            rows.check_text(role, "source", asked.columns(role)[0])
        references = {role: _references(rows, role, asked.columns(role)[1]) for role in rows.files}
        most = max(len(each) for of_role in references.values() for each in of_role)
        targets = [f"target{i}" for i in range(most)]
        makers = {
            role: partial(_table, rows, role, asked.columns(role)[0], each, targets)
            for role, each in references.items()
        }
        dataset, there = in_hub_layout(rows, own, makers, sources)
        validation = "validation" if "validation" in rows.files else None
        kept = KeptSummaries(dataset.repo, "source", "+".join(targets), validation=validation)
        return protocol.Summarization(self.info, kept), {**shared, "config": dataset.config}, there


def _for_hub(settings: Settings) -> Settings:
    """The settings of the protocol's own task."""
    return {name: value for name, value in settings.items() if name != "file"}


def _references(rows: OwnRows, role: str, columns: Sequence[str]) -> list[list[str]]:
    """The summaries of each row: the texts of all columns, and of lists of texts in them.

    Raises:
        ValueError: A column does not exist, or holds neither text nor lists of texts.
    """
    for column in columns:
        kind = rows.check_column(role, "target", column)
        if not kind.startswith("list<"):
            rows.check_text(role, "target", column)
        elif "string" not in kind:
            raise ValueError(
                f"target is the column {column!r} of {rows.where(role)}, which holds {kind}; allowed: text, lists of it"
            )
    found = zip(*(rows.read(role, column)[column].to_pylist() for column in columns), strict=True)
    return [[text or "" for each in row for text in (each if isinstance(each, list) else [each])] for row in found]


def _table(rows: OwnRows, role: str, source: str, references: Sequence[Sequence[str]], targets: Sequence[str]) -> Table:
    """The rows of a role as the protocol reads them, with a column for each summary of a text."""
    pyarrow: Any = importlib.import_module("pyarrow")
    names = [name for name in (ID,) if name in rows.columns(role)]
    table = rows.read(role, source, *names)
    columns = {name: table[name].cast("string") for name in names} | {"source": table[source].cast("string")}
    padded = zip(*([*each, *[""] * (len(targets) - len(each))] for each in references), strict=True)
    made: Table = pyarrow.table({**columns, **dict(zip(targets, map(list, padded), strict=True))})
    return made


SUMMARIZATION = OwnSummaries(
    replace(
        protocol.SUMMARIZATION.info,
        summary="ROUGE of summaries of texts of yours: set file=PATH or dataset=ORG/NAME, source=COLUMN, target=COLUMN",
        scales={
            scale: replace(given, settings={**given.settings, "file": ""})
            for scale, given in protocol.SUMMARIZATION.info.scales.items()
        },
    ),
    protocol.SUMMARIZATION,
)

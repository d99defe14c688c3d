"""`classification`: any texts or pairs of texts with a class or a number each, named by settings.

    bench run --tasks classification:dataset=ORG/NAME:text=premise+hypothesis:label=label --mirror DIR ...
    bench run --tasks classification:file=FOLDER:text=review:label=stars ...

`OwnLabelSettings` lists the settings. The protocol is that of all such data (`text_classification.py`). The column of
the labels decides what they are: classes, by the names of the data set's features, by texts or by whole numbers; or
numbers with a fraction, a regression that is scored by Pearson's and Spearman's correlation and the mean squared error.
`kind` says otherwise. The rows are kept in the layout of the hub in the cache, one copy for each content and way of
reading.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ...adapters.base import Adapter, Settings
from ...results.names import unknown_name
from ...results.record import DataIdentity, Metric
from ..base import Row, Sources, Task, TaskData, TaskInfo
from ..data.own_rows import OwnData, OwnRows, in_hub_layout
from ..data.sources import DatasetId
from ..metrics.classification import MEASURES
from ..metrics.requested import check_classes
from ..own_data import check_pretrained, settings_for, with_recipes
from ..settings import as_settings, parse_settings
from .own_labels import KINDS, read_labels
from .text_classification import SCALES, TextClassification, TextSettings, text_info

if TYPE_CHECKING:
    from pyarrow import Table

MSE = "mse"
"""Mean squared error of a regression, which `MEASURES` does not have."""

NO_DATASET = DatasetId("", "", "")
"""Stands where no data are read."""

_MOST_TEXTS = 2


@dataclass(frozen=True, kw_only=True)
class OwnLabelSettings(TextSettings):
    """Settings of a classification or regression whose data they name.

    Attributes:
        file: A file or folder of JSON lines, CSV or parquet; see `local_files.py`.
        dataset: A repository in the layout of the hub, `ORG/NAME`; one of `file` and `dataset` is set.
        config: Folder of the repository that holds the parquet files; empty if there is only one.
        revision: Commit on the hub, in full; empty if only the mirror may be read.
        text: Column of the texts, or the two of a pair as `premise+hypothesis`.
        label: Column of the labels.
        kind: `classes`, `numbers` for a regression, or `auto` for what the column holds.
        metric: The metric that ranks models; empty for accuracy, or Pearson's correlation of a regression.
        train_split: Split that is trained on; None for none.
        test_split: Split that models are tested on.

    Raises:
        ValueError: A kind or a metric does not exist, or there are more than two columns of texts.
    """

    file: str = ""
    dataset: str = ""
    config: str = ""
    revision: str = ""
    text: str = "text"
    label: str = "label"
    kind: str = "auto"
    metric: str = ""
    train_split: str | None = "train"
    test_split: str = "test"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in KINDS:
            raise unknown_name("kind", self.kind, KINDS)
        if self.metric and self.metric not in (*MEASURES, MSE):
            raise unknown_name("metric", self.metric, (*MEASURES, MSE))
        if not (all(self.columns) and len(self.columns) <= _MOST_TEXTS):
            raise ValueError(f"text is {self.text!r}; it takes one column, or the two of a pair as a+b")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the texts."""
        return tuple(self.text.split("+"))

    @property
    def shared(self) -> dict[str, Any]:
        """The settings that every such data set has."""
        return settings_for(TextSettings, self)

    @property
    def named(self) -> OwnData:
        """The name of the data; raises the errors of `OwnData`."""
        train = self.train_split if self.train_rows != 0 else None
        return OwnData(self.file, self.dataset, self.config, self.revision, train, None, self.test_split)

    def check_metric(self, num_classes: int) -> None:
        """Refuses a metric that does not fit a number of classes; 1 is a regression.

        Raises:
            ValueError: As above.
        """
        if self.metric == MSE and num_classes > 1:
            raise ValueError(f"metric is {MSE!r}, which is of numbers, and the labels are {num_classes} classes")
        check_classes(self.metric.replace(MSE, ""), num_classes)

    def protocol(self, info: TaskInfo, num_classes: int, dataset: DatasetId = NO_DATASET) -> TextClassification:
        """The protocol on a data set of such labels."""
        own = ("accuracy",) if num_classes > 1 else ("pearson", "spearman")
        metrics = tuple(dict.fromkeys(name for name in (self.metric, *own) if name in MEASURES))
        columns = tuple(f"text{i}" for i in range(len(self.columns)))
        return TextClassification(info, dataset, columns, metrics, num_classes, {"test": ""})


@dataclass(frozen=True)
class OwnClassification:
    """The task; see the module's docstring.

    Attributes:
        info: The declaration, of classes.
    """

    info: TaskInfo

    def decided(self, settings: Settings, data: DataIdentity | None) -> Task:
        """The task with its main metric; nothing is trained on data without a training split."""
        chosen = parse_settings(OwnLabelSettings, settings)
        info = with_recipes(self.info, data, lambda: chosen.named)
        is_regression = data is not None and data.details.get("kind") == "numbers"
        return replace(self, info=replace(info, main_metric=chosen.metric or ("accuracy", "pearson")[is_regression]))

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """Which rows and which tokenizer `load` would use, and what the labels are.

        Raises:
            DataUnavailableError: The data are not available.
            ValueError: A setting is wrong, or names what does not exist; texts or labels are missing or of another
                kind; a metric does not fit the labels.
        """
        protocol, own, (chosen, there) = self._resolve(settings, sources)
        return replace(own, details={**own.details, **protocol.identify(chosen, there).details})

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        """Tokenizes the rows, as `TextClassification` does.

        Raises:
            DataUnavailableError: The data or a requested metric are not available.
            ValueError: As those of `identify`.
        """
        protocol, _, (chosen, there) = self._resolve(settings, sources)
        return protocol.load(chosen, there, limit)

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """The likeliest class of each test row, or the value of a regression.

        Raises:
            FloatingPointError: The model gives a logit that is not finite.
        """
        chosen = parse_settings(OwnLabelSettings, settings)
        assert data.shape.num_classes is not None
        return chosen.protocol(self.info, data.shape.num_classes).predict(adapter, data, chosen.shared)

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        """Metrics of the test rows, as `TextClassification` computes them; of a regression also `mse`."""
        chosen = parse_settings(OwnLabelSettings, settings)
        outputs = len(rows[0]["logits"])
        metrics = chosen.protocol(self.info, outputs).score(rows, chosen.shared)
        return metrics if outputs > 1 else [*metrics, _mean_squared_error(rows)]

    def _resolve(
        self, settings: Settings, sources: Sources
    ) -> tuple[TextClassification, DataIdentity, tuple[Settings, Sources]]:
        """The protocol on the rows, the identity of the rows, and the settings and sources that the protocol takes.

        Raises:
            DataUnavailableError: The data are not available.
            ValueError: As those of `identify`, or a model from scratch has nothing to learn from.
        """
        chosen = parse_settings(OwnLabelSettings, settings)
        rows, shared = chosen.named.find(sources), chosen.shared
        if "train" not in rows.files:
            check_pretrained(rows.id, sources)
            shared["train_rows"] = 0
        own = rows.identity(sources, text=chosen.text, label=chosen.label, labels=chosen.kind)
        labels = read_labels(rows, chosen.label, chosen.kind)
        chosen.check_metric(labels.count)
        texts = {role: _texts(rows, role, chosen.columns) for role in rows.files}
        makers = {role: partial(labels.beside, role, table) for role, table in texts.items()}
        dataset, there = in_hub_layout(rows, own, makers, sources)
        own = replace(own, details={**own.details, "kind": labels.kind, "classes": labels.count})
        return chosen.protocol(self.info, labels.count, dataset), own, (shared, there)


def _texts(rows: OwnRows, role: str, columns: Sequence[str]) -> Table:
    """The texts of a role's rows, in columns named by their place.

    Raises:
        ValueError: A column does not exist or holds no text, or a row has none.
    """
    for column in columns:
        rows.check_text(role, "text", column)
    table = rows.read(role, *columns)
    for column in columns:
        if missing := table[column].null_count:
            raise ValueError(f"text is the column {column!r} of {rows.where(role)}, where {missing} rows have no text")
    pyarrow: Any = importlib.import_module("pyarrow")
    named: Table = pyarrow.table({f"text{i}": table[name].cast("string") for i, name in enumerate(columns)})
    return named


def _mean_squared_error(rows: Sequence[Row]) -> Metric:
    from ...results.stats.statistics import mean_stderr

    squares = [(row["prediction"] - row["label"]) ** 2 for row in rows]
    return Metric(MSE, math.fsum(squares) / len(rows), "1", False, mean_stderr(squares), len(rows))


CLASSIFICATION = OwnClassification(
    text_info(
        name="classification",
        summary="Classes or numbers of texts of yours: set file=PATH or dataset=ORG/NAME, text=COLUMN and label=COLUMN",
        main_metric="accuracy",
        data=("named by the setting file or dataset",),
        licence="that of the data",
        citation="the protocol of glue",
        scales={
            scale: replace(given, settings={**as_settings(OwnLabelSettings()), **given.settings})
            for scale, given in SCALES.items()
        },
    )
)

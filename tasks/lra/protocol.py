"""Classification of sequences: the protocol that the tasks of Long Range Arena share.

A model is trained on `train`, the weights of the lowest loss on `validation` are kept, and accuracy is taken on `test`,
which selects nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ...adapters.base import Adapter, ModelShape, Settings
from ...results.record import DataIdentity, Metric
from ..base import INPUT, Row, Sources, TaskData, TaskInfo
from ..data.batches import batched_logits
from ..metrics.classification import measure
from ..metrics.requested import check_classes, measure_classes, try_metrics
from ..settings import parse_settings
from .sequence_cache import Sequences


class SequenceSettings(Protocol):
    """What the settings of every such task hold."""

    @property
    def batch_size(self) -> int:
        """Rows per forward pass in evaluation."""
        ...

    @property
    def more_metrics(self) -> str:
        """Metrics beside accuracy; see `metrics/requested.py`."""
        ...


Chosen = TypeVar("Chosen", bound=SequenceSettings)


class SequenceSource(Protocol[Chosen]):
    """Sequences in the splits `train`, `validation` and `test`."""

    @property
    def settings(self) -> type[Chosen]:
        """The dataclass of the settings that the other methods take."""
        ...

    def shape(self, chosen: Chosen) -> ModelShape:
        """What a model must accept and give."""
        ...

    def identify(self, chosen: Chosen, sources: Sources) -> DataIdentity:
        """Which data `split` would read.

        Raises:
            DataUnavailableError: The data cannot be had.
        """
        ...

    def split(self, name: str, chosen: Chosen, sources: Sources) -> Sequences:
        """One split.

        Raises:
            DataUnavailableError: The data cannot be had.
        """
        ...


@dataclass(frozen=True)
class SequenceClassification(Generic[Chosen]):
    """The task; see the module's docstring.

    Attributes:
        info: The declaration.
        source: Where the sequences come from.
    """

    info: TaskInfo
    source: SequenceSource[Chosen]

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """Which sequences `load` would use.

        Raises:
            DataUnavailableError: The data cannot be had.
            ValueError: A setting, or a further metric that cannot be taken of so many classes.
        """
        chosen = parse_settings(self.source.settings, settings)
        check_classes(chosen.more_metrics, self._classes(chosen))
        return self.source.identify(chosen, sources)

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        """The sequences; `test` is a `Sequences` of the first `limit` rows."""
        chosen = parse_settings(self.source.settings, settings)
        try_metrics(chosen.more_metrics, list(range(self._classes(chosen))))
        return TaskData(
            shape=self.source.shape(chosen),
            test=self.source.split("test", chosen, sources).first(limit),
            train=self.source.split("train", chosen, sources).examples(),
            validation=self.source.split("validation", chosen, sources).examples(),
        )

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """The likeliest class of each test row.

        Raises:
            FloatingPointError: The model gives a logit that is not finite.
        """
        batch_size = parse_settings(self.source.settings, settings).batch_size
        test: Sequences = data.test
        logits = batched_logits(adapter, test.row_lengths().tolist(), batch_size, test.batch)
        columns = (test.labels.tolist(), logits.argmax(axis=1).tolist(), logits.tolist(), test.tokens.tolist())
        return [
            {"row": i, "label": label, "prediction": prediction, "logits": row, INPUT: tokens}
            for i, (label, prediction, row, tokens) in enumerate(zip(*columns, strict=True))
        ]

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        """Accuracy, and that of always naming the commonest class, which a model reaches that reads nothing.

        After them come what `more_metrics` adds.
        """
        from ...results.stats.statistics import accuracy_stderr

        labels, predictions = ([row[key] for row in rows] for key in ("label", "prediction"))
        ((_, commonest),) = Counter(labels).most_common(1)
        majority = accuracy_stderr(commonest, len(labels))
        further = parse_settings(self.source.settings, settings).more_metrics
        return [
            measure("accuracy", labels, predictions),
            Metric("majority_accuracy", commonest / len(labels), "1", None, majority, len(labels)),
            *measure_classes(further, labels, predictions, ("accuracy",)),
        ]

    def _classes(self, chosen: Chosen) -> int:
        classes = self.source.shape(chosen).num_classes
        assert classes is not None
        return classes

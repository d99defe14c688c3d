"""Classification of texts and of pairs of texts, and regression on them: the protocol that such data sets share.

Models are tested on splits whose labels are public, which for most data sets are their validation splits. What chooses
the best checkpoint is a part of the training split, so that a split that is reported never selects anything: after a
shuffle with a fixed seed, the last tenth of the training rows, but at most 1000 of them, is held out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...adapters.base import Adapter, Examples, ModelShape, Settings
from ...results.record import DataIdentity, Metric
from ..base import INPUT, Row, Sources, TaskData, TaskInfo
from ..data.documents import cached_tokens
from ..data.sources import DatasetId, identify_dataset, read_split
from ..data.tokenization import Tokenizer, TokenizerIdentity, identify_tokenizer, load_tokenizer
from ..metrics.classification import measure
from ..metrics.requested import check_classes, measure_classes, try_metrics
from ..settings import parse_settings
from .text_pairs import Text, class_logits, encode_texts, pad_rows

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from numpy.typing import NDArray

HELD_OUT_ROWS = 1000
_SHUFFLE_SEED = 0
_SHORTEST = 8


@dataclass(frozen=True)
class TextSettings:
    """How sentences are read and scored.

    Attributes:
        max_length: Longest input in tokens, special ones included; from 8.
        tokenizer: `backbone`, `bpe:N`, `auto`, `gpt2` or `byte`; see `tokenization.py`.
        train_rows: Training rows, drawn with a fixed seed out of those that are not held out; None for all. 0 reads no
            training split, which suits a model that is not trained here; its tokenizer must not be `bpe:N`.
        test_rows: Rows of each test split, drawn with a fixed seed; None for all.
        batch_size: Rows per forward pass in evaluation.
        more_metrics: Metrics beside the task's own; see `more_metrics.py`.

    Raises:
        ValueError: A `max_length` below 8.
    """

    max_length: int = 128
    tokenizer: str = "bpe:4096"
    train_rows: int | None = None
    test_rows: int | None = None
    batch_size: int = 32
    more_metrics: str = ""

    def __post_init__(self) -> None:
        if self.max_length < _SHORTEST:
            raise ValueError(f"max_length is {self.max_length}; it takes {_SHORTEST} or more, and 128 is usual")


@dataclass(frozen=True)
class EvaluationSplit:
    """Rows of one split, as `predict` reads them.

    Attributes:
        name: The split.
        places: Where each row stands in it.
        texts: The text, or pair of texts, of each row.
        tokens: Token ids of each row.
        labels: Class ids, or values of a regression.
    """

    name: str
    places: Sequence[int]
    texts: Sequence[Text]
    tokens: Sequence[NDArray[np.int32]]
    labels: Sequence[float]


@dataclass(frozen=True)
class TextClassification:
    """The task; see the module's docstring.

    Attributes:
        info: The declaration.
        dataset: Where the rows are; its splits are `train` and those of `test_splits`.
        columns: Columns that hold the text, or the two texts of a pair.
        metrics: Keys of `MEASURES` in `text_metrics.py`, the main one first.
        num_classes: Number of classes, or 1 for a regression.
        test_splits: The splits that models are tested on, and what the names of their metrics end in.
    """

    info: TaskInfo
    dataset: DatasetId
    columns: tuple[str, ...]
    metrics: tuple[str, ...]
    num_classes: int = 2
    test_splits: Mapping[str, str] = field(default_factory=lambda: {"validation": ""})

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """Which rows and which tokenizer `load` would use.

        Raises:
            DataUnavailableError: The data cannot be had.
            ValueError: A setting, or a further metric that cannot be taken of so many classes.
        """
        reader = self.reader(settings, sources)
        return replace(reader.identity, details={**reader.identity.details, **reader.tokenizer.details()})

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        """Tokenizes the rows; `test` is a tuple of `EvaluationSplit`, the first `limit` rows of each test split.

        Raises:
            DataUnavailableError: The data cannot be had, or a further metric.
            ValueError: A further metric cannot be taken of the task's labels.
        """
        reader = self.reader(settings, sources)
        of_each_class = [0.0, 1.0, 2.0] if self.num_classes == 1 else list(range(self.num_classes))
        try_metrics(reader.chosen.more_metrics, of_each_class)
        tokenizer = load_tokenizer(reader.tokenizer, lambda: (part for text in reader.texts("train") for part in text))
        return TaskData(
            shape=ModelShape(reader.chosen.max_length, tokenizer.vocab_size, self.num_classes),
            test=tuple(reader.test_split(split, tokenizer, limit) for split in self.test_splits),
            train=reader.examples("train", tokenizer),
            validation=reader.examples("held_out", tokenizer),
            notes=(reader.tokenizer.note,) if reader.tokenizer.note else (),
        )

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """The likeliest class of each test row, or the value of a regression.

        Raises:
            FloatingPointError: The model gives a logit that is not finite.
        """
        batch_size = parse_settings(TextSettings, settings).batch_size
        return [row for split in data.test for row in self._predict_split(adapter, split, batch_size)]

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        """The metrics of each test split, the task's own and those that `more_metrics` adds."""
        further = parse_settings(TextSettings, settings).more_metrics
        metrics: list[Metric] = []
        for split, suffix in self.test_splits.items():
            labels, predictions = (
                [row[key] for row in rows if row["split"] == split] for key in ("label", "prediction")
            )
            metrics += [measure(name, labels, predictions, suffix) for name in self.metrics]
            metrics += measure_classes(further, labels, predictions, self.metrics, suffix)
        return metrics

    def _predict_split(self, adapter: Adapter, split: EvaluationSplit, batch_size: int) -> Iterator[Row]:
        logits = class_logits(adapter, split.tokens, batch_size)
        predictions = logits[:, 0] if self.num_classes == 1 else logits.argmax(axis=1)
        columns = (split.places, split.texts, split.labels, predictions.tolist(), logits.tolist())
        for place, text, label, prediction, row in zip(*columns, strict=True):
            yield {
                "split": split.name,
                "row": place,
                "label": label,
                "prediction": prediction,
                "logits": row,
                INPUT: text[0] if len(text) == 1 else list(text),
            }

    def reader(self, settings: Settings, sources: Sources) -> Reader:
        """The rows as they are read under these settings, which any task on the same texts may use."""
        chosen = parse_settings(TextSettings, settings)
        check_classes(chosen.more_metrics, self.num_classes)
        dataset = replace(self.dataset, splits=tuple(self.test_splits)) if chosen.train_rows == 0 else self.dataset
        identity = identify_dataset(dataset, sources)
        text_key = f"{self.info.name} {self.info.version} {identity.fingerprint} {chosen.train_rows}"
        tokenizer = identify_tokenizer(chosen.tokenizer, text_key, sources)
        if chosen.train_rows == 0 and tokenizer.trained_here:
            raise ValueError(
                f"tokenizer {tokenizer.name} needs training text, and train_rows is 0; use backbone, gpt2 or byte"
            )
        cache_key = f"{text_key} {chosen.test_rows} {chosen.max_length} {tokenizer.fingerprint}"
        folder = sources.cache / "tokens" / f"{self.info.name}-{hashlib.sha256(cache_key.encode()).hexdigest()[:16]}"
        return Reader(self, chosen, sources, dataset, identity, tokenizer, folder)


@dataclass(frozen=True)
class Reader:
    """A task's rows under given settings; tokens are kept in `folder` for the cells that follow."""

    task: TextClassification
    chosen: TextSettings
    sources: Sources
    dataset: DatasetId
    identity: DataIdentity
    tokenizer: TokenizerIdentity
    folder: Path

    def texts(self, part: str) -> list[Text]:
        """The chosen texts of `train`, `held_out` or a test split."""
        return self._texts(self._rows(part)[1])

    def examples(self, part: str, tokenizer: Tokenizer) -> Examples | None:
        """`train` or `held_out` as training reads them; None where nothing is trained, or too few rows to hold out."""
        import numpy as np

        if "train" not in self.dataset.splits:
            return None
        places, rows = self._rows(part)
        if not places:
            return None
        inputs, mask = pad_rows(self._tokens(part, rows, tokenizer))
        kind = np.float32 if self.task.num_classes == 1 else np.int32
        return Examples(inputs, np.array(rows["label"][:], kind), mask)

    def test_split(self, split: str, tokenizer: Tokenizer, limit: int | None) -> EvaluationSplit:
        """The first `limit` of the chosen rows of a test split."""
        places, rows = self._rows(split)
        tokens = self._tokens(split, rows, tokenizer)
        return EvaluationSplit(
            split, places[:limit], self._texts(rows)[:limit], tokens[:limit], rows["label"][:][:limit]
        )

    def _rows(self, part: str) -> tuple[list[int], Dataset]:
        """The chosen rows of a part, and their places in its split."""
        import numpy as np

        rows = read_split(self.dataset, "train" if part == "held_out" else part, self.sources)
        shuffled: list[int] = np.random.default_rng(_SHUFFLE_SEED).permutation(len(rows)).tolist()
        rest = len(rows) - min(len(rows) // 10, HELD_OUT_ROWS)
        if part == "train":
            places = shuffled[:rest][: self.chosen.train_rows]
        elif part == "held_out":
            places = shuffled[rest:]
        else:
            # A sample of all the split, in its order: CoLA's and STS-B's rows are sorted by where they come from.
            places = sorted(shuffled[: self.chosen.test_rows])
        return places, rows.select(places)

    def _texts(self, rows: Dataset) -> list[Text]:
        return list(zip(*(rows[name][:] for name in self.task.columns), strict=True))

    def _tokens(self, part: str, rows: Dataset, tokenizer: Tokenizer) -> list[NDArray[np.int32]]:
        return cached_tokens(
            self.folder / f"{part}.npz",
            tokenizer.vocab_size,
            lambda: encode_texts(self._texts(rows), tokenizer, self.chosen.max_length),
        )

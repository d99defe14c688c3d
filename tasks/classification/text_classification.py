"""Classification of texts and of pairs of texts, and regression on them: the protocol that such data sets share.

Models are tested on splits whose labels are public, which for most data sets are their validation splits. The best
checkpoint is chosen on a part of the training split, so that a split that is reported never selects anything: after a
shuffle with a fixed seed, the last tenth of the training rows, but at most 1000 of them, is held out.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...adapters.base import Adapter, Capability, Examples, ModelShape, Settings
from ...results.record import DataIdentity, Metric
from ..base import FROM_SCRATCH, INPUT, Row, Sources, TaskData, TaskInfo, TaskScale
from ..data.batches import TokenIds, batched_logits, pad_rows
from ..data.documents import cached_tokens
from ..data.sources import DatasetId, identify_dataset, read_split, shuffled_places
from ..data.tokenization import TextIdentity, Tokenizer, identify_text, load_tokenizer
from ..heavy import np
from ..metrics.classification import measure, without_learning
from ..metrics.requested import check_classes, measure_classes, try_metrics
from ..settings import as_settings, check_ranges, parse_settings
from .text_pairs import Text, encode_texts, prefix_of

if TYPE_CHECKING:
    from datasets import Dataset

HELD_OUT_ROWS = 1000


@dataclass(frozen=True)
class TextSettings:
    """How sentences are read and scored.

    Attributes:
        max_length: Longest input in tokens, special ones included; from 8.
        tokenizer: `backbone`, `bpe:N`, `auto`, `gpt2` or `byte`; see `tokenization.py`.
        train_rows: Training rows, drawn with a fixed seed out of those that are not held out; None for all. 0 reads no
            training split, for a model that is not trained here; its tokenizer must not be `bpe:N`.
        test_rows: Rows of each test split, drawn with a fixed seed; None for all.
        batch_size: Rows per forward pass in evaluation.
        more_metrics: Metrics beside the task's own; see `metrics/requested.py`.

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
        check_ranges(self, {"max_length": (8, None)})


_POOLED: Settings = {"length_pool": 32}
_KEEP_LAST: Settings = {"keep_last": True}
_STAGES: Mapping[str, Settings] = {"teacher": _KEEP_LAST, "finetune": _KEEP_LAST}
SCALES: Mapping[str, TaskScale] = {
    "smoke": TaskScale(
        as_settings(TextSettings(max_length=64, tokenizer="bpe:1024", train_rows=512, test_rows=128)),
        train=_POOLED,
        stages=_STAGES,
    ),
    "small": TaskScale(as_settings(TextSettings(train_rows=10_000, test_rows=2_000)), train=_POOLED, stages=_STAGES),
    "paper": TaskScale(
        as_settings(TextSettings(tokenizer="bpe:16384")),
        stages=_STAGES,
        train={**_POOLED, "epochs": 10.0, "batch_size": 32, "lr": 1e-4, "eval_every": 0, "eval_rows": HELD_OUT_ROWS},
    ),
}

text_info = functools.partial(
    TaskInfo,
    version=1,
    needs=frozenset({Capability.CLASSIFIER}),
    backbone="encoder",
    recipes=(*FROM_SCRATCH, "finetuned-conversion", "pretrained-conversion", "pretrained-conversion-lora", "zero-shot"),
    scales=SCALES,
)
"""Declares a task on texts: a `TaskInfo` that lacks `name`, `summary`, `main_metric`, `data`, `licence`, `citation`."""


@dataclass(frozen=True)
class EvaluationSplit:
    """Rows of one split, as `predict` reads them.

    Attributes:
        name: The split.
        places: Place of each row in the split.
        texts: The text, or pair of texts, of each row.
        tokens: Token ids of each row.
        labels: Class ids, or values of a regression.
    """

    name: str
    places: Sequence[int]
    texts: Sequence[Text]
    tokens: Sequence[TokenIds]
    labels: Sequence[float]


@dataclass(frozen=True)
class TextClassification:
    """The task; see the module's docstring.

    Attributes:
        info: The declaration.
        dataset: Where the rows are; its splits are `train` and those of `test_splits`.
        columns: Columns that hold the text, or the two texts of a pair.
        metrics: Keys of `MEASURES` in `metrics/classification.py`, the main one first.
        num_classes: Number of classes, or 1 for a regression.
        test_splits: The splits that models are tested on, and the suffix of their metrics' names.
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
            DataUnavailableError: The data are not available.
            ValueError: A setting is wrong, or a requested metric does not fit the number of classes.
        """
        return self.reader(settings, sources).text.data

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        """Tokenizes the rows; `test` is a tuple of `EvaluationSplit`, the first `limit` rows of each test split.

        Raises:
            DataUnavailableError: The data or a requested metric are not available.
            ValueError: A requested metric does not fit the task's labels.
        """
        reader = self.reader(settings, sources)
        of_each_class = [0.0, 1.0, 2.0] if self.num_classes == 1 else list(range(self.num_classes))
        try_metrics(reader.chosen.more_metrics, of_each_class)
        tokenizer = reader.load_tokenizer()
        return TaskData(
            shape=ModelShape(
                reader.chosen.max_length, tokenizer.vocab_size, self.num_classes, labels=reader.class_names()
            ),
            test=tuple(reader.test_split(split, tokenizer, limit) for split in self.test_splits),
            train=reader.examples("train", tokenizer),
            validation=reader.examples("held_out", tokenizer),
            notes=reader.text.tokenizer.notes,
            details=reader.text.tokenizer.loaded(prefix_of(tokenizer)),
        )

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """The likeliest class of each test row, or the value of a regression.

        Raises:
            FloatingPointError: The model gives a logit that is not finite.
        """
        batch_size = parse_settings(TextSettings, settings).batch_size
        return [row for split in data.test for row in self._predict_split(adapter, split, batch_size)]

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        """Metrics of each test split: the task's own, those of `more_metrics`, and what they are without learning."""
        further = parse_settings(TextSettings, settings).more_metrics
        metrics: list[Metric] = []
        for split, suffix in self.test_splits.items():
            labels, predictions = (
                [row[key] for row in rows if row["split"] == split] for key in ("label", "prediction")
            )
            found = [measure(name, labels, predictions, suffix) for name in self.metrics]
            found += measure_classes(further, labels, predictions, self.metrics, suffix)
            metrics += [*found, *without_learning(found, labels, suffix)]
        return metrics

    def reader(self, settings: Settings, sources: Sources) -> LabelledTextReader:
        """The reader of the rows under these settings; other tasks on the same texts use it too.

        Raises:
            DataUnavailableError: The data are not available.
            ValueError: A setting is wrong, or a requested metric does not fit the number of classes.
        """
        chosen = parse_settings(TextSettings, settings)
        check_classes(chosen.more_metrics, self.num_classes)
        dataset = replace(self.dataset, splits=tuple(self.test_splits)) if chosen.train_rows == 0 else self.dataset
        identity = identify_dataset(dataset, sources)
        text = identify_text(self.info, identity, chosen.tokenizer, sources, train_rows=chosen.train_rows)
        folder = text.token_folder(sources, chosen.test_rows, chosen.max_length)
        return LabelledTextReader(replace(self, dataset=dataset), chosen, sources, text, folder)

    def texts(self, rows: Dataset) -> list[Text]:
        """The texts, or pairs of texts, of rows of the data set."""
        return list(zip(*(rows[name][:] for name in self.columns), strict=True))

    def _predict_split(self, adapter: Adapter, split: EvaluationSplit, batch_size: int) -> Iterator[Row]:
        lengths = [len(row) for row in split.tokens]
        logits = batched_logits(
            adapter, lengths, batch_size, lambda chosen: pad_rows([split.tokens[i] for i in chosen])
        )
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


@dataclass(frozen=True)
class LabelledTextReader:
    """A task's rows under given settings; token ids are kept in `folder` for later cells."""

    task: TextClassification
    chosen: TextSettings
    sources: Sources
    text: TextIdentity
    folder: Path

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer, trained on the training texts if need be."""
        return load_tokenizer(
            self.text.tokenizer, lambda: (part for text in self.task.texts(self._rows("train")[1]) for part in text)
        )

    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of their ids; empty if the data set does not name its classes."""
        first = next(iter(self.task.test_splits))
        return tuple(getattr(self._rows(first)[1].features["label"], "names", None) or ())

    def examples(self, part: str, tokenizer: Tokenizer) -> Examples | None:
        """The part `train` or `held_out` as `Examples`; None if no training split is read or the part has no row."""
        if "train" not in self.task.dataset.splits:
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
        texts, tokens, labels = self.task.texts(rows), self._tokens(split, rows, tokenizer), rows["label"][:]
        return EvaluationSplit(split, places[:limit], texts[:limit], tokens[:limit], labels[:limit])

    def _rows(self, part: str) -> tuple[list[int], Dataset]:
        """The chosen rows of a part, and their places in its split."""
        rows = read_split(self.task.dataset, "train" if part == "held_out" else part, self.sources)
        shuffled = shuffled_places(len(rows))
        rest = len(rows) - min(len(rows) // 10, HELD_OUT_ROWS)
        if part == "train":
            places = shuffled[:rest][: self.chosen.train_rows]
        elif part == "held_out":
            places = shuffled[rest:]
        else:
            # Drawn from the whole split and kept in its order: rows of CoLA and STS-B are sorted by origin.
            places = sorted(shuffled[: self.chosen.test_rows])
        return places, rows.select(places)

    def _tokens(self, part: str, rows: Dataset, tokenizer: Tokenizer) -> list[TokenIds]:
        return cached_tokens(
            self.folder / f"{part}.npz",
            tokenizer.vocab_size,
            lambda: encode_texts(self.task.texts(rows), tokenizer, self.chosen.max_length),
        )

"""Long Range Arena: the protocol that its tasks share, and their declaration.

A model is trained on `train`, keeps the weights with the lowest loss on `validation`, and is measured on `test`, which
selects nothing.

We follow the PyTorch benchmark published with Nystromformer (Xiong et al., arXiv 2102.03902; `LRA/code/lra_config.py`
of its repository); we do not know which benchmark Hedgehog's authors followed. `PAPER_BACKBONE` and the `paper` scale
of each task have its hyper-parameters: two pre-norm layers of width 64 with two heads, learned positions, the mean over
tokens, and a classifier with one hidden layer; AdamW without weight decay at a peak rate of 1e-4. Differences:

- Lengths mark the padding. The benchmark takes every token id 0 as padding, even black pixels.
- The mean is over real tokens; the benchmark's is over the padded length.
- Validation keeps the lowest loss; the benchmark keeps the highest accuracy, for some tasks on part of the test split.
- The learning rate falls by half a cosine; the benchmark's falls linearly.
- Dropout is on embeddings and residual branches; the benchmark has it in the MLP and on softmax attention weights too.

| task | sequence | classes | splits at `paper` |
|---|---|---|---|
| `lra/listops` | expressions, 501 to 1,999 tokens | 10 | 96,000 / 2,000 / 2,000, generated |
| `lra/text` | film reviews in bytes, up to 4,096 | 2 | 24,000 / 1,000 / 25,000 |
| `lra/retrieval` | two documents in bytes, up to 4,000 each | 2 | 147,086 / 18,090 / 17,437 |
| `lra/image` | grey pixels, 1,024 | 10 | 45,000 / 5,000 / 10,000 |
| `lra/pathfinder` | grey pixels, 1,024 | 2 | 160,000 / 20,000 / 20,000, generated |
| `lra/digits` | grey pixels, 64 | 10 | 1,198 / 200 / 399, embedded |

`lra/digits` is no task of the benchmark. It is a substitute for `lra/image` where CIFAR-10 is not available, under its
own name, and does not count towards the score of the group.

Source: Tay et al., arXiv 2011.04006; Hedgehog, arXiv 2402.04347.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from types import MappingProxyType
from typing import Generic, Protocol, TypeVar

from ...adapters.base import Adapter, Capability, ModelShape, Settings
from ...results.record import DataIdentity, Metric, Scalar
from ..base import FROM_SCRATCH, INPUT, NO_TEXT, Row, Sources, TaskData, TaskInfo, TaskScale
from ..classification.text_classification import TextSettings
from ..data.batches import batched_logits
from ..metrics.classification import measure, without_learning
from ..metrics.requested import check_classes, measure_classes, try_metrics
from ..settings import as_settings, parse_settings
from .sequences import SequenceCache, Sequences

PAPER_BACKBONE: Settings = {
    "layers": 2, "heads": 2, "kv_heads": 2, "width": 64, "mlp_width": 128, "head_width": 128, "dropout": 0.1
}  # fmt: skip
_BENCHMARK_OPTIMISER: Settings = {
    "lr": 1e-4, "final_lr": 0.0, "weight_decay": 0.0, "beta2": 0.999, "clip_norm": 0.0, "patience": 0
}  # fmt: skip
_GENERATOR_VERSION = "1"


@dataclass(frozen=True, kw_only=True)
class SequenceSettings:
    """Settings that all tasks of sequences have.

    Attributes:
        batch_size: Rows per forward pass in evaluation.
        more_metrics: Metrics beside accuracy; see `metrics/requested.py`.
    """

    batch_size: int = 128
    more_metrics: str = ""


@dataclass(frozen=True, kw_only=True)
class SeededSettings(SequenceSettings):
    """Settings that all tasks with generated sequences have.

    Attributes:
        data_seed: Seed of the data; the seed of a run changes initialisation and order, not the data.
    """

    data_seed: int = 0


Chosen = TypeVar("Chosen", bound=SequenceSettings)
Chosen_contra = TypeVar("Chosen_contra", bound=SequenceSettings, contravariant=True)
Seeded = TypeVar("Seeded", bound=SeededSettings)


class SequenceSource(Protocol[Chosen_contra]):
    """Sequences in the splits `train`, `validation` and `test`."""

    def identify(self, chosen: Chosen_contra, sources: Sources) -> DataIdentity:
        """The identity of the data that `split` reads.

        Raises:
            DataUnavailableError: The data cannot be read.
        """
        ...

    def split(self, name: str, chosen: Chosen_contra, sources: Sources) -> Sequences:
        """One split.

        Raises:
            DataUnavailableError: The data cannot be read.
        """
        ...


@dataclass(frozen=True)
class GeneratedSequences(Generic[Seeded]):
    """Sequences from a generator, made once and cached for all cells with the same data.

    Attributes:
        name: Name of the generator.
        make: Makes every split, by its name.
    """

    name: str
    make: Callable[[Seeded], Mapping[str, Sequences]]

    def identify(self, chosen: Seeded, sources: Sources) -> DataIdentity:
        """The generator, and a hash of the sequences that it makes."""
        made, details = self._cache(chosen, sources).contents, {"data_seed": chosen.data_seed}
        return DataIdentity(self.name, _GENERATOR_VERSION, made["fingerprint"], "generated", made["rows"], details)

    def split(self, name: str, chosen: Seeded, sources: Sources) -> Sequences:
        """One split."""
        return self._cache(chosen, sources).split(name)

    def _cache(self, chosen: Seeded, sources: Sources) -> SequenceCache:
        of_data = replace(chosen, batch_size=1, more_metrics="")
        key = f"{_GENERATOR_VERSION} {version('numpy')} {of_data}"
        return SequenceCache.keyed(self.name, key, sources, lambda: self.make(chosen))


@dataclass(frozen=True)
class SequenceClassification(Generic[Chosen]):
    """Classification of sequences; see the module's docstring.

    Attributes:
        info: The declaration.
        settings: Dataclass of the task's settings.
        shape: The shape of models under given settings.
        source: Where the sequences come from.
        details: What the record says of the tokenizer; see `TaskData`.
    """

    info: TaskInfo
    settings: type[Chosen]
    shape: Callable[[Chosen], ModelShape]
    source: SequenceSource[Chosen]
    details: Mapping[str, Scalar] = field(default_factory=lambda: NO_TEXT)

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """The identity of the sequences that `load` reads.

        Raises:
            DataUnavailableError: The data cannot be read.
            ValueError: A setting is wrong, or a requested metric does not fit the number of classes.
        """
        chosen = parse_settings(self.settings, settings)
        check_classes(chosen.more_metrics, self.shape(chosen).num_classes or 0)
        return self.source.identify(chosen, sources)

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        """The sequences; `test` is a `Sequences` of the first `limit` rows.

        Raises:
            DataUnavailableError: The data or a requested metric are not available.
        """
        chosen = parse_settings(self.settings, settings)
        shape = self.shape(chosen)
        try_metrics(chosen.more_metrics, list(range(shape.num_classes or 0)))
        train, validation, test = (self.source.split(name, chosen, sources) for name in ("train", "validation", "test"))
        return TaskData(shape, test.first(limit), train.examples(), validation.examples(), details=self.details)

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """The likeliest class of each test row.

        Raises:
            FloatingPointError: The model gives a logit that is not finite.
        """
        batch_size = parse_settings(self.settings, settings).batch_size
        test: Sequences = data.test
        logits = batched_logits(adapter, test.row_lengths().tolist(), batch_size, test.batch)
        columns = (test.labels.tolist(), logits.argmax(axis=1).tolist(), logits.tolist(), test.tokens.tolist())
        return [
            {"row": i, "label": label, "prediction": prediction, "logits": row, INPUT: tokens}
            for i, (label, prediction, row, tokens) in enumerate(zip(*columns, strict=True))
        ]

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        """Accuracy, then what `more_metrics` adds, then what they are without learning."""
        labels, predictions = ([row[key] for row in rows] for key in ("label", "prediction"))
        further = parse_settings(self.settings, settings).more_metrics
        found = [
            measure("accuracy", labels, predictions),
            *measure_classes(further, labels, predictions, ("accuracy",)),
        ]
        return [*found, *without_learning(found, labels)]


def lra_info(
    name: str,
    summary: str,
    *,
    data: str,
    citation: str,
    scales: Mapping[str, tuple[SequenceSettings | TextSettings, Settings]],
    train: Settings = MappingProxyType({}),
    licence: str = "that of the original data set",
) -> TaskInfo:
    """The declaration of a task of the benchmark.

    Args:
        name: Such as `listops`.
        summary: One line for the listing.
        data: Id of the data set or of the generator.
        licence: Licence of the data.
        citation: Source of the data.
        scales: The settings and the hyper-parameters of training at each scale.
        train: Hyper-parameters of training at all scales, besides those that all tasks share.
    """
    return TaskInfo(
        name=f"lra/{name}",
        version=1,
        summary=f"Long Range Arena: {summary} (accuracy)",
        main_metric="accuracy",
        data=(data,),
        licence=licence,
        citation=f"{citation}; Tay et al., Long Range Arena, arXiv 2011.04006",
        needs=frozenset({Capability.CLASSIFIER}),
        backbone="encoder",
        recipes=FROM_SCRATCH,
        scales={
            scale: TaskScale(
                as_settings(settings),
                {**(_BENCHMARK_OPTIMISER if scale == "paper" else {}), **train, **own},
                backbone=PAPER_BACKBONE if scale == "paper" else {**PAPER_BACKBONE, "dropout": 0.0},
            )
            for scale, (settings, own) in scales.items()
        },
    )

"""The protocol of tasks with generated data: splits drawn from a seed, their fingerprint, and a task's four steps.

A new task has a subclass of `GeneratedSettings` and four functions: they generate the splits as `GeneratedRows`, turn a
split into training examples, ask a model for answers, and measure the answers. `GeneratedTask` does the rest; `maze.py`
is an example.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from typing import Any, Generic, Self, TypeAlias, TypeVar

from ...adapters.base import Adapter, Examples, ModelShape, Settings
from ...results.record import DataIdentity, Metric
from ..base import FROM_SCRATCH, NO_TEXT, Row, Sources, TaskData, TaskInfo, TaskScale
from ..heavy import NDArray, np
from ..metrics.requested import check_evaluate, measure_answers, try_metrics
from ..settings import as_settings, parse_settings

Columns: TypeAlias = Mapping[str, "list[Any] | NDArray[Any]"]
"""Values by name; a column has one value for each row."""

REVISION = "1"
"""Version of the generators in the identity of their data."""

SPLITS = ("test", "validation", "train")
MOST_ROUNDS = 100


@dataclass(frozen=True, kw_only=True)
class GeneratedSettings:
    """Settings that all tasks with generated data have.

    Attributes:
        validation_samples: Samples for early stopping.
        test_samples: Test samples.
        data_seed: Seed of the data; the seed of a run changes initialisation and order, not the data.
        batch_size: Samples per forward pass when predicting.
    """

    validation_samples: int = 1_000
    test_samples: int = 1_000
    data_seed: int = 0
    batch_size: int = 32


@dataclass(frozen=True)
class GeneratedRows:
    """Rows of one split. A subclass has arrays with one entry for each row as its fields."""

    def __len__(self) -> int:
        return len(next(iter(vars(self).values())))

    def take(self, rows: NDArray[np.int64] | Sequence[int] | slice) -> Self:
        """The rows with these indices."""
        return replace(self, **{name: array[rows] for name, array in vars(self).items()})


Chosen = TypeVar("Chosen", bound=GeneratedSettings)
Drawn = TypeVar("Drawn", bound=GeneratedRows)
Draw = Callable[["np.random.Generator", int], Drawn]
"""A function that draws a number of rows from a random generator."""
Key = Callable[[Drawn], "NDArray[Any]"]
"""A function that gives an array with one entry for each row; no two splits share an entry."""


def draw_splits(parts: Mapping[str, Sequence[tuple[Draw[Drawn], int]]], seed: int, key: Key[Drawn]) -> dict[str, Drawn]:
    """Draws splits that share nothing, each from its own child of the seed.

    The test split is drawn first and the training split last, and rows that an earlier split holds are drawn anew. So a
    larger training split leaves the other splits unchanged. Repeats within a split stay. The parts of the training
    split follow each other; those of the other splits take turns, so that the first rows include each part.

    Args:
        parts: The parts of each split of `SPLITS`: functions that draw them, and the rows of each part.
        seed: Seed of the data.
        key: Gives the entries that no two splits share.

    Raises:
        ValueError: The generator has too few different rows.
    """
    splits: dict[str, Drawn] = {}
    for name, child in zip(SPLITS, np.random.SeedSequence(seed).spawn(len(SPLITS)), strict=True):
        rng = np.random.default_rng(child)
        taken = {digest for split in splits.values() for digest in _digests(key(split))}
        split = _joined([_draw_new(name, partial(draw, rng), rows, key, taken) for draw, rows in parts[name]])
        places = np.concatenate([np.arange(rows) for _, rows in parts[name]])
        splits[name] = split if name == "train" else split.take(np.argsort(places, kind="stable"))
    return splits


def draw_alike(
    generate: Callable[[np.random.Generator, int, Chosen], Drawn], settings: Chosen, key: Key[Drawn]
) -> dict[str, Drawn]:
    """Draws splits from one generator: `train_samples`, `validation_samples` and `test_samples` rows."""

    def draw(rng: np.random.Generator, rows: int) -> Drawn:
        return generate(rng, rows, settings)

    parts = {name: [(draw, getattr(settings, f"{name}_samples"))] for name in SPLITS}
    return draw_splits(parts, settings.data_seed, key)


def _draw_new(name: str, draw: Callable[[int], Drawn], rows: int, key: Key[Drawn], taken: Collection[bytes]) -> Drawn:
    """Draws rows until enough of them have a key outside `taken`."""
    parts: list[Drawn] = []
    missing = rows
    for _ in range(MOST_ROUNDS):
        drawn = draw(missing)
        parts.append(drawn.take([i for i, digest in enumerate(_digests(key(drawn))) if digest not in taken]))
        missing -= len(parts[-1])
        if not missing:
            return _joined(parts)
    raise ValueError(
        f"{name} lacks {missing} of {rows} sequences that are in no other split after {MOST_ROUNDS} draws; "
        "ask for fewer, or for longer ones"
    )


def _joined(parts: Sequence[Drawn]) -> Drawn:
    return replace(parts[0], **{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])})


def _digests(rows: NDArray[Any]) -> Iterator[bytes]:
    return (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows)


def content_hash(splits: Mapping[str, GeneratedRows]) -> str:
    """A hash of the names, types, shapes and bytes of every array of every split."""
    content = hashlib.sha256()
    for split in sorted(splits):
        for column, array in sorted(vars(splits[split]).items()):
            content.update(f"{split}.{column} {array.dtype.str} {array.shape}".encode())
            content.update(array.tobytes())
    return content.hexdigest()


def scale(settings: GeneratedSettings, train: Settings, backbone: Settings | None = None) -> TaskScale:
    """The defaults of a task at one scale."""
    return TaskScale(as_settings(settings), train, backbone=backbone or {})


def gpt(layers: int, heads: int, width: int, **changes: int) -> Settings:
    """Size of the backbone `gpt`; its MLP is four times as wide as its residual stream, unless in `changes`."""
    size = {"layers": layers, "heads": heads, "kv_heads": heads, "width": width, "mlp_width": 4 * width}
    return {**size, **changes}


@dataclass(frozen=True, eq=False, kw_only=True)
class GeneratedTask(Generic[Chosen, Drawn]):
    """A task with generated data.

    Attributes:
        name: A field of `TaskInfo`, as are `summary`, `citation` and `main_metric`.
        scales: The defaults at each scale.
        settings: Dataclass of the task's settings.
        shape: The shape of models under given settings.
        generate_splits: Draws the splits `train`, `validation` and `test`.
        to_examples: Turns a split into training examples.
        answer: Gives the answers of a model and of references to a split, in columns; the column `INPUT` has the
            model's input.
        measure: Measures answers.
        details: Names of settings that are part of the data's identity, besides `data_seed`.
        fingerprint: Hashes the splits.
        train: Settings of training at every scale, unless a scale has its own.
        compared: Columns of right answers and of predictions that the metrics of the setting `more_metrics` compare;
            None for a task without this setting.
    """

    name: str
    summary: str
    citation: str
    scales: Mapping[str, TaskScale]
    settings: type[Chosen]
    shape: Callable[[Chosen], ModelShape]
    generate_splits: Callable[[Chosen], Mapping[str, Drawn]]
    to_examples: Callable[[Drawn, Chosen], Examples]
    answer: Callable[[Adapter, Drawn, Chosen], Columns]
    measure: Callable[[Sequence[Row], Chosen], Sequence[Metric]]
    details: tuple[str, ...]
    fingerprint: Callable[[Mapping[str, Drawn]], str] = content_hash
    compared: tuple[str, str] | None = None
    main_metric: str = "accuracy"
    train: Settings = field(default_factory=dict)

    @cached_property
    def info(self) -> TaskInfo:
        """The declaration."""
        return TaskInfo(
            name=self.name,
            version=1,
            summary=f"Synthetic: {self.summary}",
            main_metric=self.main_metric,
            data=("generated",),
            licence="Apache-2.0",
            citation=self.citation,
            needs=frozenset({self.shape(self.settings()).needs}),
            scales={name: replace(each, train={**self.train, **each.train}) for name, each in self.scales.items()},
            recipes=FROM_SCRATCH,
        )

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:  # noqa: ARG002
        """The generator, and a hash of the rows that it draws."""
        return _identity(self, self._parsed(settings)[0])

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:  # noqa: ARG002
        """The examples, and as `test` the first `limit` rows of the test split.

        Raises:
            DataUnavailableError: A further metric cannot be loaded.
            ValueError: A further metric cannot compare tokens.
        """
        chosen, more_metrics = self._parsed(settings)
        try_metrics(more_metrics, [0, 1])
        splits = self.generate_splits(chosen)
        train, validation = (self.to_examples(splits[name], chosen) for name in ("train", "validation"))
        return TaskData(self.shape(chosen), splits["test"].take(slice(limit)), train, validation, details=NO_TEXT)

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """The answers of a model and of references; one row for each test row."""
        columns = self.answer(adapter, data.test, self._parsed(settings)[0])
        values = [column if isinstance(column, list) else column.tolist() for column in columns.values()]
        return [
            {"sample": i, **dict(zip(columns, row, strict=True))} for i, row in enumerate(zip(*values, strict=True))
        ]

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        """The metrics of the task, then those of `more_metrics`."""
        chosen, more_metrics = self._parsed(settings)
        further = measure_answers(more_metrics, rows, *self.compared) if self.compared else []
        return [*self.measure(rows, chosen), *further]

    def _parsed(self, settings: Settings) -> tuple[Chosen, str]:
        """The settings, and `more_metrics` among them."""
        chosen = parse_settings(self.settings, settings)
        more_metrics = getattr(chosen, "more_metrics", "")
        check_evaluate(more_metrics)
        return chosen, more_metrics


@lru_cache(maxsize=32)  # a plan asks once for each model
def _identity(task: GeneratedTask[Chosen, Drawn], chosen: Chosen) -> DataIdentity:
    splits = task.generate_splits(chosen)
    details = {name: getattr(chosen, name) for name in ("data_seed", *task.details)}
    rows = {name: len(split) for name, split in splits.items()}
    return DataIdentity(task.name, REVISION, task.fingerprint(splits), "generated", rows, details)

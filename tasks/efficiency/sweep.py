"""Sweeps over sequence length and batch size: their settings, and the task that `throughput` and `memory` both are."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...adapters.base import Adapter, ModelShape, Settings
from ...results.record import DataIdentity, Metric, Scalar
from ..base import NO_TEXT, Row, Sources, TaskData, TaskInfo, TaskScale
from ..settings import as_settings, check_ranges, parse_settings
from .points import Point, Points, climb, model_at, run_points, search_largest_batch
from .subjects import VOCAB_SIZE

SMOKE_LENGTHS = (256, 1024, 4096)
_FROM_0 = ("tokens", "memory_limit_mb", "classes", "layer_heads", "layer_kv_heads", "layer_head_dim")


@dataclass(frozen=True)
class SweepSettings:
    """What is swept.

    Attributes:
        seq_lens: Sequence lengths in tokens.
        batch_size: Rows per call.
        batch_sizes: Several numbers of rows, instead of `batch_size`; each is its own sweep.
        tokens: Tokens of a call at every length, instead of `batch_size` and `batch_sizes`: a call has
            `tokens / seq_len` rows. 0 for none.
        modes: What is measured, joined by `+`.
        largest_batch: Modes, joined by `+`, whose largest batch that fits is searched at each length.
        max_batch: Largest batch that such a search tries.
        past_failures: Go on to longer lengths after one that ran out of memory or time.
        point_timeout_s: Seconds after which the process of a point is stopped.
        memory_limit_mb: Memory that a point may allocate, in units of 2**20 bytes: on the CPU from the start of its
            measurement, on CUDA in all. 0 for no limit but the machine's.
        layer_heads: Query heads of the attention layer that is measured alone; 0 for the model's own.
        layer_kv_heads: Its key and value heads; 0 for `layer_heads`, or for the model's own if those are 0 too.
        layer_head_dim: Its head dimension; 0 for the model's own.
        classes: Classes of a classifier, for encoders such as BERT: their layers attend in both directions, their
            prefill is a forward pass to class logits, and they neither decode nor keep a state. 0 for a language model.

    Raises:
        ValueError: An unknown mode, no length, or a number out of range.
    """

    seq_lens: tuple[int, ...] = (256, 512, 1024, 2048, 4096)
    batch_size: int = 1
    batch_sizes: tuple[int, ...] = ()
    tokens: int = 0
    modes: str = ""
    largest_batch: str = ""
    max_batch: int = 4096
    past_failures: bool = False
    point_timeout_s: float = 600.0
    memory_limit_mb: int = 0
    layer_heads: int = 0
    layer_kv_heads: int = 0
    layer_head_dim: int = 0
    classes: int = 0

    def check(self, known_modes: Sequence[str]) -> None:
        """Refuses settings that cannot be measured.

        Raises:
            ValueError: An unknown mode, no length, or a number out of range.
        """
        if not self.seq_lens or min(self.seq_lens) < 1:
            raise ValueError(
                f"seq_lens is {self.seq_lens}; give at least one length, each 1 or more, such as 128,256,512"
            )
        modes = dict.fromkeys((*self.mode_names(), *self.largest_batch_modes()))
        if unknown := [mode for mode in modes if mode not in known_modes]:
            raise ValueError(
                f"modes holds {', '.join(map(repr, unknown))}; join any of {', '.join(known_modes)} by '+'"
            )
        check_ranges(self, {"batch_size": (1, None), "max_batch": (1, None), **dict.fromkeys(_FROM_0, (0, None))})
        if self.point_timeout_s <= 0:
            raise ValueError(f"point_timeout_s is {self.point_timeout_s:g}; it takes a number above 0")
        if any(size < 1 for size in self.batch_sizes):
            raise ValueError(f"batch_sizes is {self.batch_sizes}; it takes whole numbers from 1")
        if wrong := [length for length in self.seq_lens if self.tokens % length]:
            raise ValueError(
                f"tokens is {self.tokens}; it must be a multiple of every length, and is not of {wrong[0]}"
            )

    def mode_names(self) -> list[str]:
        """The modes, in the order given."""
        return self.modes.split("+")

    def largest_batch_modes(self) -> list[str]:
        """The modes whose largest batch is searched."""
        return self.largest_batch.split("+") if self.largest_batch else []

    def lengths(self, limit: int | None) -> list[int]:
        """The first `limit` lengths, shortest first."""
        return sorted(self.seq_lens)[:limit]

    def batches(self) -> list[Callable[[int], int]]:
        """A function from a length to the rows of a call, for each sweep."""
        if self.tokens:
            return [lambda seq_len: self.tokens // seq_len]
        return [lambda _, size=size: size for size in self.batch_sizes or (self.batch_size,)]  # type: ignore[misc]

    def points(self, limit: int | None) -> Points:
        """Each mode and batch from short to long, with the machine's own points between modes; then largest batches."""
        yield from self.machine_points(0)
        for turn, mode in enumerate(self.mode_names(), start=1):
            for batch_of in self.batches():
                yield from climb(mode, self.lengths(limit), batch_of, past_failures=self.past_failures)
            yield from self.machine_points(turn)
        for mode in self.largest_batch_modes():
            for seq_len in self.lengths(limit):
                yield from search_largest_batch(mode, seq_len, self.max_batch)

    def machine_points(self, turn: int) -> Points:  # noqa: ARG002
        """Points on the machine itself before the first mode (turn 0), and after each mode; none unless overridden."""
        yield from ()

    def context_length(self) -> int:
        """Tokens that the model must have room for."""
        return max(self.seq_lens)

    def layer_sizes(self) -> dict[str, int]:
        """Sizes that differ from the model's in the layer that is measured alone."""
        kv_heads = self.layer_kv_heads or self.layer_heads
        sizes = {"heads": self.layer_heads, "kv_heads": kv_heads, "head_dim": self.layer_head_dim}
        return {name: size for name, size in sizes.items() if size}

    def at(self, row: Row) -> dict[str, Scalar]:
        """Coordinates of a row's point: its length and its batch size, or the tokens of a call if these are constant.

        A largest batch has the length alone.
        """
        if row["role"] == "largest":
            return {"seq_len": row["seq_len"]}
        batch = {"tokens_per_step": self.tokens} if self.tokens else {"batch_size": row["batch_size"]}
        return {"seq_len": row["seq_len"], **batch}


@dataclass(frozen=True)
class Sweep:
    """A task that measures a model, its attention layer alone, and the machine, at points of random tokens.

    Attributes:
        info: The declaration.
        kind: Class of its settings.
        measure_point: Measures a point on a subject; `PointTask.measure` with settings as `kind`.
        metrics: Metrics of all rows, with settings as `kind`.
    """

    info: TaskInfo
    kind: type[SweepSettings]
    measure_point: Callable[[Any, Point, Any], Row]
    metrics: Callable[[Sequence[Row], Any], list[Metric]]

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:  # noqa: ARG002
        """Identifies random tokens, whose values do not matter.

        Raises:
            ValueError: A setting is wrong.
        """
        parse_settings(self.kind, settings)
        fingerprint = f"uniform tokens below {VOCAB_SIZE}"
        return DataIdentity(id=self.info.name, revision="1", fingerprint=fingerprint, source="generated")

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:  # noqa: ARG002
        """The shape that every length fits in; `test` holds the first `limit` lengths."""
        chosen = parse_settings(self.kind, settings)
        shape = ModelShape(chosen.context_length(), VOCAB_SIZE, num_classes=chosen.classes or None)
        return TaskData(shape, test=tuple(chosen.lengths(limit)), details=NO_TEXT)

    def points(self, settings: Settings, limit: int | None = None) -> Points:
        """The points of the first `limit` lengths."""
        return parse_settings(self.kind, settings).points(limit)

    def layer_sizes(self, settings: Settings) -> Mapping[str, int]:
        """Sizes that differ from the model's in the layer that is measured alone."""
        return parse_settings(self.kind, settings).layer_sizes()

    def measure(self, subject: Any, point: Point, settings: Settings) -> Row:
        """Measures one point."""
        return self.measure_point(subject, point, parse_settings(self.kind, settings))

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """Measures every point in this process; a run starts a process for each.

        The attention layer alone is `unsupported` here, because only the model was built.
        """
        points = self.points(settings, len(data.test))
        return run_points(points, lambda point: self.measure(model_at(point, adapter), point, settings))

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        """The headline first, then the metrics of each point and of the sweep."""
        return self.metrics(rows, parse_settings(self.kind, settings))


sweep_info = functools.partial(
    TaskInfo,
    data=("generated",),
    licence="Apache-2.0",
    citation="Zhang et al., The Hedgehog & the Porcupine, arXiv 2402.04347, figure 6 (axes only: no values known)",
    needs=frozenset(),  # a language model, or a classifier if `classes` is set
    recipes=("zero-shot",),
    own_device=True,
)
"""Declares a sweep: a `TaskInfo` that lacks `name`, `version`, `summary`, `main_metric` and `scales`."""


def sweep_scales(kind: type[SweepSettings], smoke: SweepSettings) -> dict[str, TaskScale]:
    """The scales of a sweep: `smoke` as given, `small` with the defaults of `kind`, `paper` to 131,072 tokens."""
    paper = kind(seq_lens=tuple(2**power for power in range(9, 18)))
    scales = {"smoke": smoke, "small": kind(), "paper": paper}
    return {scale: TaskScale(settings=as_settings(values)) for scale, values in scales.items()}

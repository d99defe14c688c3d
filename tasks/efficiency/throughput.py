"""Throughput: milliseconds and tokens per second against sequence length, of a whole model and its attention alone.

Each point runs in a process of its own. The first call, which compiles, is made apart. Then calls warm up until two in
a row agree within 10 %, and are repeated; the median is reported with every sample, and the 20th and 80th percentiles
beside it. Decoding is timed token by token on a
context that ends at `seq_len`; generating feeds each token back that the model chose, after a prompt of `seq_len`.

Weights are random and tokens too: nothing is trained. A length that runs out of memory or time is a result and ends its
climb. `longest_prefill_tokens_per_s` ranks models: it is taken at the longest length asked for and at no other, so that
a model that does not get there has no value, rather than that of a shorter length. It has no coordinates, as one number
per model goes into a leaderboard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...adapters.base import Adapter, Settings
from ...results.record import DataIdentity, Metric
from ..base import Row, Sources, TaskData, TaskInfo, TaskScale
from ..measuring.machine_peak import MACHINE, measure_machine
from ..measuring.pace import PACE, measure_pace
from ..settings import as_settings, parse_settings
from .decoding import tokens_decoded
from .metrics import throughput_metrics
from .modes import MODES, TimedModes, measure_mode
from .sweep_points import LAYER, Point, Points, climb, model_at, run_points, search_largest_batch
from .sweep_settings import SweepSettings, identity


@dataclass(frozen=True)
class ThroughputSettings(SweepSettings):
    """What is timed, beside what is swept.

    Attributes:
        modes: Any of `prefill`, `train`, `decode` and `generate` on the whole model, `layer_prefill`, `layer_train` and
            `layer_decode` on its attention layer alone, and `compiled_prefill`, `compiled_train`,
            `layer_compiled_prefill` and `layer_compiled_train` through torch.compile, joined by `+`.
        repeats: Timed calls at each point; at least so many.
        min_time_ms: Time over which calls are repeated at least, but no more than 20 times `repeats`. Decoding and
            generating take exactly `repeats` tokens.
        warmup: Calls before timing, at most, once `min_warmup_ms` are over; 0 for none.
        min_warmup_ms: Time over which calls warm up at least. Decoding and generating warm up with `warmup` tokens.
        max_call_s: A call that takes longer ends its climb with the status `timeout`; the first, which compiles, has no
            limit but the point's.
        max_time_s: Seconds after which no call is added once there are three samples; `n` says how many there are.

    Raises:
        ValueError: As of `SweepSettings`; or a length too short to decode `warmup + repeats` tokens, one before them,
            and two for a graph.
    """

    modes: str = "prefill+train+decode+layer_prefill+layer_train"
    repeats: int = 10
    min_time_ms: float = 100.0
    warmup: int = 5
    min_warmup_ms: float = 100.0
    max_call_s: float = 60.0
    max_time_s: float = 20.0

    def __post_init__(self) -> None:
        self.check(MODES)
        if self.repeats < 1 or self.warmup < 0:
            raise ValueError(f"repeats is {self.repeats} and warmup {self.warmup}; they take numbers from 1 and from 0")
        decoded = tokens_decoded(self.warmup, self.repeats, graph=True)
        if any(mode.endswith("decode") for mode in self.mode_names()) and min(self.seq_lens) <= decoded:
            raise ValueError(
                f"seq_lens holds {min(self.seq_lens)}; decoding warmup + repeats tokens and 3 more needs over {decoded}"
            )

    def calls(self) -> TimedModes:
        """How calls are repeated."""
        return TimedModes(
            self.repeats, self.min_time_ms, self.warmup, self.max_call_s, self.max_time_s, self.min_warmup_ms
        )

    def context_length(self) -> int:
        """Tokens that a model must have room for: the longest length, and what is generated after it."""
        generates = "generate" in (*self.mode_names(), *self.largest_batch_modes())
        return max(self.seq_lens) + (tokens_decoded(self.warmup, self.repeats, graph=False) if generates else 0)


@dataclass(frozen=True)
class Throughput:
    """The task; see the module's docstring."""

    info: TaskInfo

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:  # noqa: ARG002
        """Random tokens."""
        parse_settings(ThroughputSettings, settings)
        return identity("throughput")

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:  # noqa: ARG002
        """The shape that every length fits in; `test` holds the lengths, the first `limit` of them."""
        chosen = parse_settings(ThroughputSettings, settings)
        shape = chosen.shape(chosen.context_length())
        return TaskData(shape, test=tuple(chosen.lengths(limit)))

    def points(self, settings: Settings, limit: int | None = None) -> Points:
        """Mode by mode and batch by batch from short to long, then the largest batches; the pace between modes."""
        chosen = parse_settings(ThroughputSettings, settings)
        modes = chosen.mode_names()
        yield _pace(0)
        if any(mode.startswith(LAYER) for mode in modes):
            yield Point(MACHINE, 0, 0, subject="machine")
        for i, mode in enumerate(modes):
            for batch_of in chosen.batches():
                yield from climb(mode, chosen.lengths(limit), batch_of, past_failures=chosen.past_failures)
            yield _pace(i + 1)
        for mode in chosen.largest_batch_modes():
            for seq_len in chosen.lengths(limit):
                yield from search_largest_batch(mode, seq_len, chosen.max_batch)

    def layer_sizes(self, settings: Settings) -> Mapping[str, int]:
        """Sizes of the attention layer alone that were set."""
        return parse_settings(ThroughputSettings, settings).layer_sizes()

    def measure(self, subject: Any, point: Point, settings: Settings) -> Row:
        """Times of a mode, or of the machine's fixed work."""
        chosen = parse_settings(ThroughputSettings, settings)
        if point.mode == PACE:
            return {"paces_ms": measure_pace(subject.device)}
        if point.mode == MACHINE:
            return measure_machine(subject.device, subject.dtype)
        return measure_mode(subject, point, chosen.calls(), chosen.memory_limit_mb * 2**20)

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """Raw times of every point, in this process; a run has a process for each.

        The attention layer alone is `unsupported` here, as there is a model and nothing else.
        """
        points = self.points(settings, len(data.test))
        return run_points(points, lambda point: self.measure(model_at(point, adapter), point, settings))

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        """The headline, the metrics of each point, scaling exponents, and the machine's own pace and peak."""
        return throughput_metrics(rows, parse_settings(ThroughputSettings, settings))


def _pace(turn: int) -> Point:
    return Point(PACE, 0, turn, subject="machine")


THROUGHPUT = Throughput(
    info=TaskInfo(
        name="throughput",
        version=4,
        summary="Prefill, training-step and decoding time against sequence length; model and attention alone",
        main_metric="longest_prefill_tokens_per_s",
        data=("generated",),
        licence="Apache-2.0",
        citation="Zhang et al., The Hedgehog & the Porcupine, arXiv 2402.04347, figure 6 (axes only: no values known)",
        needs=frozenset(),  # a language model, or a classifier where `classes` says so
        recipes=("zero-shot",),
        own_device=True,
        scales={
            "smoke": TaskScale(
                settings=as_settings(
                    ThroughputSettings(seq_lens=(256, 1024, 4096), modes="prefill+train+decode", repeats=5)
                )
            ),
            "small": TaskScale(settings=as_settings(ThroughputSettings())),
            "paper": TaskScale(
                settings=as_settings(ThroughputSettings(seq_lens=tuple(2**power for power in range(9, 18))))
            ),
        },
    )
)

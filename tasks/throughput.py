"""Throughput: milliseconds and tokens per second of prefill, training step and decoding, against sequence length.

Each point is warmed up until two calls in a row agree within 10 %, then repeated; the median is reported with every
sample. A call is timed by the host's clock with the device synchronised before and after it, so launch overhead counts,
as it does for a user. Decoding is timed token by token on a context that ends at `seq_len`.

Weights are random and tokens too: nothing is trained. The first length that runs out of memory is a result and ends its
mode. `longest_prefill_tokens_per_s` ranks models: it is taken at the longest length asked for and at no other, so that
a model that does not get there has no value, rather than that of a shorter length. It has no coordinates, as one number
per model goes into a leaderboard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..adapters.base import Adapter, Capability, ModelShape, Settings
from ..results.record import DataIdentity, Metric
from .base import Row, Sources, TaskData, TaskInfo, TaskScale
from .pace import PACE, measure_pace, pace_metric
from .settings import as_settings, parse_settings
from .sweep import VOCAB_SIZE, check_sweep, climb, identity, random_tokens
from .timing import Repeats, log_log_slope, time_calls, time_ms

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ThroughputSettings:
    """What is timed.

    Attributes:
        seq_lens: Sequence lengths in tokens.
        batch_size: Rows per call.
        modes: Any of `prefill`, `train` and `decode`, joined by `+`.
        repeats: Timed calls at each point; at least so many.
        min_time_ms: Time over which calls are repeated at least, but no more than 20 times `repeats`. Decoding takes
            exactly `repeats` tokens.
        warmup: Calls before timing, at most.
        max_call_s: A call that takes longer ends its mode with the status `timeout`.

    Raises:
        ValueError: An unknown mode, or a length too short to decode `warmup + repeats` tokens.
    """

    seq_lens: tuple[int, ...] = (256, 512, 1024, 2048, 4096)
    batch_size: int = 1
    modes: str = "prefill+train+decode"
    repeats: int = 10
    min_time_ms: float = 100.0
    warmup: int = 5
    max_call_s: float = 60.0

    def __post_init__(self) -> None:
        check_sweep(self.seq_lens, self.modes, tuple(_MEASURE))
        decoded = self.warmup + self.repeats
        if "decode" in self.modes and min(self.seq_lens) <= decoded:
            raise ValueError(
                f"seq_lens holds {min(self.seq_lens)}; decoding warmup + repeats tokens needs over {decoded}"
            )

    def repeated(self) -> Repeats:
        """How often a whole call is repeated."""
        return Repeats(self.repeats, self.min_time_ms, self.warmup, self.max_call_s)


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
        seq_lens = sorted(parse_settings(ThroughputSettings, settings).seq_lens)
        return TaskData(ModelShape(context_length=seq_lens[-1], vocab_size=VOCAB_SIZE), test=tuple(seq_lens[:limit]))

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """Raw times; one row for each mode and length that was reached, and one of the machine's pace meanwhile."""
        chosen = parse_settings(ThroughputSettings, settings)

        def measured(mode: str) -> Iterator[Row]:
            return climb(
                mode,
                data.test,
                chosen.batch_size,
                lambda seq_len: {"samples_ms": _MEASURE[mode](adapter, seq_len, chosen)},
            )

        rows: list[Row] = []
        paces = [measure_pace(adapter.device)]
        for mode in chosen.modes.split("+"):
            rows += measured(mode)
            paces.append(measure_pace(adapter.device))
        rows += [{"mode": PACE, "work": work, "samples_ms": [ms for pace in paces for ms in pace[work]]}
                 for work in paces[0]]  # fmt: skip
        return rows

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        """The headline, then two metrics for each row, then a scaling exponent for each mode with three points.

        An exponent is the slope of log time against log length over all points: near 1 for a linear mechanism and 2 for
        a quadratic one once lengths are long; fixed costs at short lengths pull it down.
        `pace_ms` is the machine's own pace.
        """
        modes = parse_settings(ThroughputSettings, settings).modes.split("+")
        pace = [pace_metric(row["work"], row["samples_ms"]) for row in rows if row["mode"] == PACE]
        rows = [row for row in rows if row["mode"] != PACE]
        points = [metric for row in rows for metric in _point_metrics(row)]
        exponents = [exponent for mode in modes for exponent in _exponent(mode, rows)]
        return [*_headline(rows), *points, *exponents, *pace]


def _measure_prefill(adapter: Adapter, seq_len: int, settings: ThroughputSettings) -> list[float]:
    tokens = random_tokens(adapter, settings.batch_size, seq_len)
    return time_calls(lambda: adapter.prefill(tokens), adapter.device, settings.repeated())


def _measure_training(adapter: Adapter, seq_len: int, settings: ThroughputSettings) -> list[float]:
    tokens = random_tokens(adapter, settings.batch_size, seq_len)
    targets = tokens.roll(-1, dims=1)
    return time_calls(lambda: adapter.training_step(tokens, targets), adapter.device, settings.repeated())


def _measure_decoding(adapter: Adapter, seq_len: int, settings: ThroughputSettings) -> list[float]:
    tokens = random_tokens(adapter, settings.batch_size, seq_len)
    context_len = seq_len - settings.warmup - settings.repeats
    _, state = adapter.prefill(tokens[:, :context_len])
    samples_ms = []
    for position in range(context_len, seq_len):

        def step(token: torch.Tensor = tokens[:, position]) -> None:
            nonlocal state
            _, state = adapter.decode(token, state)

        samples_ms.append(time_ms(step, adapter.device, settings.max_call_s))
    return samples_ms[settings.warmup :]


_MEASURE: dict[str, Callable[[Adapter, int, ThroughputSettings], list[float]]] = {
    "prefill": _measure_prefill,
    "train": _measure_training,
    "decode": _measure_decoding,
}


def _tokens_per_call(row: Row) -> int:
    return int(row["batch_size"]) * (1 if row["mode"] == "decode" else int(row["seq_len"]))


def _point_metrics(row: Row) -> list[Metric]:
    """Latency and throughput at one point; both without a value where it failed."""
    import numpy as np

    from ..results.statistics import index_bootstrap

    at = {"seq_len": row["seq_len"], "batch_size": row["batch_size"]}
    latency, throughput = f"{row['mode']}_ms", f"{row['mode']}_tokens_per_s"
    if row["status"] != "ok":
        failed = row["status"]
        return [
            Metric(latency, None, "ms", False, None, 0, at, failed),
            Metric(throughput, None, "tokens/s", True, None, 0, at, failed),
        ]
    ms, n = np.asarray(row["samples_ms"]), len(row["samples_ms"])
    rates = 1e3 * _tokens_per_call(row) / ms
    ms_stderr = index_bootstrap(lambda draws: np.median(ms[draws], axis=1), n)
    rate_stderr = index_bootstrap(lambda draws: np.median(rates[draws], axis=1), n)
    return [
        Metric(latency, float(np.median(ms)), "ms", False, ms_stderr, n, at, samples=tuple(ms.tolist())),
        Metric(
            throughput, float(np.median(rates)), "tokens/s", True, rate_stderr, n, at, samples=tuple(rates.tolist())
        ),
    ]


def _headline(rows: Sequence[Row]) -> list[Metric]:
    """Prefill throughput where the climb ended: at the longest length, or without a value where it failed."""
    climbed = [row for row in rows if row["mode"] == "prefill"]
    return [replace(_point_metrics(row)[1], name="longest_prefill_tokens_per_s", at={}) for row in climbed[-1:]]


def _exponent(mode: str, rows: Sequence[Row]) -> list[Metric]:
    import numpy as np

    points = [(row["seq_len"], np.median(row["samples_ms"])) for row in rows
              if row["mode"] == mode and row["status"] == "ok"]  # fmt: skip
    if len(points) < 3:
        return []
    slope, stderr = log_log_slope(*zip(*points, strict=True))
    return [Metric(f"{mode}_exponent", slope, "1", None, stderr, len(points))]


THROUGHPUT = Throughput(
    info=TaskInfo(
        name="throughput",
        version=2,
        summary="Prefill, training-step and decoding time against sequence length",
        main_metric="longest_prefill_tokens_per_s",
        data=("generated",),
        licence="Apache-2.0",
        citation="Zhang et al., The Hedgehog & the Porcupine, arXiv 2402.04347, figure 6 (axes only: no values known)",
        needs=frozenset({Capability.LANGUAGE_MODEL}),
        recipes=("zero-shot",),
        own_device=True,
        scales={
            "smoke": TaskScale(settings=as_settings(ThroughputSettings(seq_lens=(256, 1024, 4096), repeats=5))),
            "small": TaskScale(settings=as_settings(ThroughputSettings())),
            "paper": TaskScale(
                settings=as_settings(ThroughputSettings(seq_lens=tuple(2**power for power in range(9, 18))))
            ),
        },
    )
)

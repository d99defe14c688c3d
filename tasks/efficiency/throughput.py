"""Throughput: milliseconds and tokens per second against sequence length, of a whole model and its attention alone.

A run measures each point in its own process. The first call, which compiles, is timed apart. Then calls warm up until
two in a row agree within 10 %, and are repeated; the metrics are the median, with every sample, and the 20th and 80th
percentiles. Decoding is timed token by token on a context that ends at `seq_len`. Generating starts after a prompt of
`seq_len` tokens and feeds each token that the model chooses back to it.

Weights and tokens are random: nothing is trained. A length that runs out of memory or time is a result and ends its
climb. `longest_prefill_tokens_per_s` ranks models. It is taken at the longest length asked for and at no other, so a
model that does not reach that length has no value rather than that of a shorter one. It has no coordinates, as one
number per model goes into a leaderboard.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...results.record import Metric
from ..base import Row
from ..heavy import np
from ..measuring.machine import MACHINE, PACE, machine_metrics, measure_machine, measure_pace, pace_metric
from ..measuring.metrics import At, clock_metrics, median_metric, spread_metrics
from ..measuring.timing import Repeats
from ..settings import check_ranges
from .decoding import tokens_decoded
from .metrics import climb_end, growth_metrics, largest_batch_metrics
from .modes import MODES, measure_mode
from .points import LAYER, Point, Points, of_role
from .sweep import SMOKE_LENGTHS, Sweep, SweepSettings, sweep_info, sweep_scales

SHORTEST_ENERGY_WINDOW_S = 1.0
"""Shortest window that energy is reported for: energy counters move in steps of tens of milliseconds."""


@dataclass(frozen=True)
class ThroughputSettings(SweepSettings):
    """What is timed, in addition to what is swept.

    Attributes:
        modes: Any of `prefill`, `train`, `decode` and `generate` on the whole model, `layer_prefill`, `layer_train` and
            `layer_decode` on its attention layer alone, and `compiled_prefill`, `compiled_train`,
            `layer_compiled_prefill` and `layer_compiled_train` through torch.compile, joined by `+`.
        repeats: Fewest timed calls at each point.
        min_time_ms: Least total time of the timed calls, up to 20 times `repeats` calls. Decoding and generating take
            exactly `repeats` tokens.
        warmup: Most calls before timing, once `min_warmup_ms` are over; 0 for none.
        min_warmup_ms: Least time of the warm-up. Decoding and generating warm up with `warmup` tokens.
        max_call_s: Longest time of a call; a longer one ends its climb with the status `timeout`. The first call, which
            compiles, is limited by the point's time only.
        max_time_s: Seconds of timed calls after which none is added once there are three samples; a metric's `n` is
            the number of samples.

    Raises:
        ValueError: As for `SweepSettings`; or a length too short to decode `warmup + repeats` tokens, one before them,
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
        check_ranges(self, {"repeats": (1, None), "warmup": (0, None)})
        decoded = tokens_decoded(self.warmup, self.repeats, graph=True)
        if any(mode.endswith("decode") for mode in self.mode_names()) and min(self.seq_lens) <= decoded:
            raise ValueError(
                f"seq_lens holds {min(self.seq_lens)}; decoding warmup + repeats tokens and 3 more needs over {decoded}"
            )

    def machine_points(self, turn: int) -> Points:
        """The machine's pace; before all modes also its peaks, if layers are measured."""
        yield Point(PACE, 0, turn, subject="machine")
        if turn == 0 and any(mode.startswith(LAYER) for mode in self.mode_names()):
            yield Point(MACHINE, 0, 0, subject="machine")

    def context_length(self) -> int:
        """Tokens that the model must have room for: the longest length, and the tokens generated after it."""
        generates = "generate" in (*self.mode_names(), *self.largest_batch_modes())
        return max(self.seq_lens) + (tokens_decoded(self.warmup, self.repeats, graph=False) if generates else 0)

    def repeats_at(self, point: Point) -> Repeats:
        """How often the point's call is repeated; a probe, a trial whether a batch fits, is one call."""
        if point.role == "probe":
            return Repeats(1, 0.0, 0, self.max_call_s)
        max_time_ms = 1e3 * self.max_time_s
        return Repeats(self.repeats, self.min_time_ms, self.warmup, self.max_call_s, max_time_ms, self.min_warmup_ms)


def measure_times(subject: Any, point: Point, settings: ThroughputSettings) -> Row:
    """Times of a mode, or of the machine's fixed work."""
    if point.mode == PACE:
        return {"paces_ms": measure_pace(subject.device)}
    if point.mode == MACHINE:
        return measure_machine(subject.device, subject.dtype)
    return measure_mode(subject, point, settings.repeats_at(point), settings.memory_limit_mb * 2**20)


def throughput_metrics(rows: Sequence[Row], settings: ThroughputSettings) -> list[Metric]:
    """The headline, the metrics of each point, scaling exponents, and the machine's own peaks and pace."""
    sweep = [row for row in of_role(rows, "sweep") if row["mode"] not in (PACE, MACHINE)]
    points = [(row, settings.at(row)) for row in (*sweep, *of_role(rows, "largest"))]
    headline = "longest_prefill_tokens_per_s"
    return [
        *(replace(_time_metrics(row, {})[1], name=headline) for row in climb_end(rows, settings)),
        *(metric for row, at in points for metric in _time_metrics(row, at)),
        *(metric for row, at in points for metric in _device_metrics(row, at)),
        *largest_batch_metrics(rows),
        *growth_metrics("time_exponent", sweep, settings, lambda row: float(np.median(row["samples_ms"]))),
        *(metric for row in _measured(rows, MACHINE) for metric in machine_metrics(row)),
        *_pace_metrics(_measured(rows, PACE)),
    ]


def _time_metrics(row: Row, at: At) -> list[Metric]:
    """Latency and throughput at one point, in this order; without a value if it failed."""
    mode = row["mode"] + ("_largest_batch" if row["role"] == "largest" else "")
    latency, rate = f"{mode}_per_token_ms" if row["mode"] == "generate" else f"{mode}_ms", f"{mode}_tokens_per_s"
    if row["status"] != "ok":
        failed = [(latency, "ms", False), (rate, "tokens/s", True)]
        return [Metric(name, None, unit, better, None, 0, at, row["status"]) for name, unit, better in failed]
    ms = np.asarray(row["samples_ms"])
    median, *percentiles = spread_metrics(latency, ms, "ms", False, at)
    found = [median, median_metric(rate, 1e3 * _tokens_per_call(row) / ms, "tokens/s", True, at), *percentiles]
    if "first_token_samples_ms" in row:
        found += spread_metrics(f"{mode}_first_token_ms", row["first_token_samples_ms"], "ms", False, at)
    return found


def _tokens_per_call(row: Row) -> int:
    one_token = row["mode"].endswith(("decode", "generate"))
    return int(row["batch_size"]) * (1 if one_token else int(row["seq_len"]))


def _device_metrics(row: Row, at: At) -> list[Metric]:
    """Counted FLOPs and bytes, and the device's clocks and energy, if the row has them.

    Energy is that of the timed calls per token, without warm-up, compilation and prompts before decoding.
    """
    mode, found = row["mode"], []
    if "flops" in row:
        found += [
            Metric(f"{mode}_flops", row["flops"], "flops", None, None, 1, at),
            Metric(f"{mode}_traffic_bytes", row["bytes"], "bytes", None, None, 1, at),
        ]
    reported = row.get("telemetry", {})
    found += clock_metrics(mode, reported, at)
    is_long = reported.get("window_s", 0.0) >= SHORTEST_ENERGY_WINDOW_S
    if "energy_j" in reported and is_long and row["role"] == "sweep" and row["subject"] == "model":
        tokens = len(row["samples_ms"]) * _tokens_per_call(row)
        found.append(Metric(f"{mode}_energy_per_token_j", reported["energy_j"] / tokens, "J", False, None, 1, at))
    return found


def _measured(rows: Sequence[Row], mode: str) -> list[Row]:
    return [row for row in rows if row["mode"] == mode and row["status"] == "ok"]


def _pace_metrics(rows: Sequence[Row]) -> list[Metric]:
    """The pace of each kind of work over all of its points."""
    samples_ms: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for work, ms in row["paces_ms"].items():
            samples_ms[work] += ms
    return [pace_metric(work, ms) for work, ms in samples_ms.items()]


THROUGHPUT = Sweep(
    sweep_info(
        name="throughput",
        version=4,
        summary="Prefill, training-step and decoding time against sequence length; model and attention alone",
        main_metric="longest_prefill_tokens_per_s",
        scales=sweep_scales(
            ThroughputSettings, ThroughputSettings(SMOKE_LENGTHS, modes="prefill+train+decode", repeats=5)
        ),
    ),
    ThroughputSettings,
    measure_times,
    throughput_metrics,
)

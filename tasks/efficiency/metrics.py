"""From the rows of throughput's points to metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ...results.record import Metric, Scalar
from ..base import Row
from ..measuring.machine_peak import MACHINE, machine_metrics
from ..measuring.pace import PACE, pace_metric
from .scaling import exponent_metrics
from .sweep_points import of_role
from .sweep_settings import SweepSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PERCENTILES = (20, 80)
SHORTEST_ENERGY_WINDOW_S = 1.0
"""Energy counters move in steps of tens of milliseconds; a shorter window says nothing."""


def throughput_metrics(rows: Sequence[Row], settings: SweepSettings) -> list[Metric]:
    """Every metric of a throughput cell, the headline first."""
    sweep = [row for row in of_role(rows, "sweep") if row["mode"] not in (PACE, MACHINE)]
    largest = of_role(rows, "largest")
    return [
        *_headline(sweep, settings),
        *(metric for row in (*sweep, *largest) for metric in _point_metrics(row, settings.at(row))),
        *(metric for row in (*sweep, *largest) for metric in _device_metrics(row, settings.at(row))),
        *largest_batch_metrics(rows),
        *_exponents(sweep, settings),
        *_machine(rows),
        *_paces(rows),
    ]


def largest_batch_metrics(rows: Sequence[Row]) -> list[Metric]:
    """The largest batch that fits at each length.

    It is called so only where a larger one ran out of memory. Where the search ended otherwise, at its most or at a
    batch that took too long or failed, what is known is that so many fit: `MODE_batch_at_least`.
    """
    found: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in of_role(rows, "probe"):
        found[row["mode"], row["seq_len"]].append(row)
    return [_largest_batch(mode, seq_len, probes) for (mode, seq_len), probes in found.items()]


def _largest_batch(mode: str, seq_len: int, probes: Sequence[Row]) -> Metric:
    at: Mapping[str, Scalar] = {"seq_len": seq_len}
    fits = max((row["batch_size"] for row in probes if row["status"] == "ok"), default=0)
    failed = min((row for row in probes if row["status"] != "ok"), key=lambda row: row["batch_size"], default=None)
    if not fits and failed is not None:
        return Metric(f"{mode}_largest_batch", None, "1", True, None, 0, at, failed["status"])
    is_largest = failed is not None and failed["status"] == "oom"
    name = f"{mode}_largest_batch" if is_largest else f"{mode}_batch_at_least"
    return Metric(name, fits, "1", True, None, len(probes), at)


def _headline(rows: Sequence[Row], settings: SweepSettings) -> list[Metric]:
    """Prefill throughput where its first climb ended: at the longest length, or without a value where it failed."""
    climbed = [row for row in rows if row["mode"] == "prefill"]
    if not climbed:
        return []
    batch_of = settings.batches()[0]
    first = [row for row in climbed if row["batch_size"] == batch_of(row["seq_len"])]
    ends = next((row for row in first if row["status"] != "ok"), first[-1])
    throughput = _point_metrics(ends, {})[1]
    return [replace(throughput, name="longest_prefill_tokens_per_s")]


def _tokens_per_call(row: Row) -> int:
    one_token = row["mode"].endswith(("decode", "generate"))
    return int(row["batch_size"]) * (1 if one_token else int(row["seq_len"]))


def _point_metrics(row: Row, at: Mapping[str, Scalar]) -> list[Metric]:
    """Latency and throughput at one point; both without a value where it failed."""
    import numpy as np

    mode = row["mode"] + ("_largest_batch" if row["role"] == "largest" else "")
    latency = f"{mode}_per_token_ms" if row["mode"] == "generate" else f"{mode}_ms"
    if row["status"] != "ok":
        failed = row["status"]
        return [
            Metric(latency, None, "ms", False, None, 0, at, failed),
            Metric(f"{mode}_tokens_per_s", None, "tokens/s", True, None, 0, at, failed),
        ]
    ms = np.asarray(row["samples_ms"])
    found = [
        median_metric(latency, ms, "ms", False, at),
        median_metric(f"{mode}_tokens_per_s", 1e3 * _tokens_per_call(row) / ms, "tokens/s", True, at),
        *percentile_metrics(latency, ms, "ms", at),
    ]
    if "first_token_samples_ms" in row:
        first = np.asarray(row["first_token_samples_ms"])
        found += [
            median_metric(f"{mode}_first_token_ms", first, "ms", False, at),
            *percentile_metrics(f"{mode}_first_token_ms", first, "ms", at),
        ]
    return found


def median_metric(
    name: str, values: NDArray[np.float64], unit: str, higher_is_better: bool | None, at: Mapping[str, Scalar]
) -> Metric:
    """The median of repeated measurements, with the standard error of a bootstrap and every sample."""
    import numpy as np

    from ...results.stats.statistics import index_bootstrap

    stderr = index_bootstrap(lambda draws: np.median(values[draws], axis=1), values.size)
    return Metric(
        name,
        float(np.median(values)),
        unit,
        higher_is_better,
        stderr,
        values.size,
        at,
        samples=tuple(values.tolist()),
    )


def percentile_metrics(name: str, values: NDArray[np.float64], unit: str, at: Mapping[str, Scalar]) -> list[Metric]:
    """The spread of repeated measurements: `NAME_p20` and `NAME_p80`, which only describe."""
    import numpy as np

    return [
        Metric(f"{name}_p{share}", float(np.percentile(values, share)), unit, None, None, values.size, at)
        for share in PERCENTILES
    ]


def _device_metrics(row: Row, at: Mapping[str, Scalar]) -> list[Metric]:
    """FLOPs and bytes by counting, and what the device told, where there are any.

    Energy is that of the timed calls, over their tokens: warming up, prompts before decoding and compiling are outside.
    """
    mode, found = row["mode"], []
    if "flops" in row:
        found += [
            Metric(f"{mode}_flops", row["flops"], "flops", None, None, 1, at),
            Metric(f"{mode}_traffic_bytes", row["bytes"], "bytes", None, None, 1, at),
        ]
    did = row.get("telemetry", {})
    if "lowest_sm_clock_mhz" in did:
        found.append(Metric(f"{mode}_lowest_sm_clock_mhz", did["lowest_sm_clock_mhz"], "mhz", None, None, 1, at))
    if "throttled" in did:
        found.append(Metric(f"{mode}_throttled", float(bool(did["throttled"])), "1", None, None, 1, at))
    is_telling = did.get("window_s", 0.0) >= SHORTEST_ENERGY_WINDOW_S and row["subject"] == "model"
    if "energy_j" in did and row["role"] == "sweep" and is_telling:
        tokens = len(row["samples_ms"]) * _tokens_per_call(row)
        found.append(Metric(f"{mode}_energy_per_token_j", did["energy_j"] / tokens, "J", False, None, 1, at))
    return found


def _exponents(rows: Sequence[Row], settings: SweepSettings) -> list[Metric]:
    import numpy as np

    climbs: dict[tuple[str, tuple[tuple[str, Scalar], ...]], list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        if row["status"] == "ok":
            rest = tuple((key, value) for key, value in settings.at(row).items() if key != "seq_len")
            climbs[row["mode"], rest].append((row["seq_len"], float(np.median(row["samples_ms"]))))
    return [
        metric
        for (mode, rest), points in climbs.items()
        for metric in exponent_metrics("time_exponent", mode, points, dict(rest))
    ]


def _machine(rows: Sequence[Row]) -> list[Metric]:
    measured = [row for row in rows if row["mode"] == MACHINE and row["status"] == "ok"]
    return [metric for row in measured for metric in machine_metrics(row)]


def _paces(rows: Sequence[Row]) -> list[Metric]:
    samples: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row["mode"] == PACE and row["status"] == "ok":
            for work, ms in row["paces_ms"].items():
                samples[work] += ms
    return [pace_metric(work, ms) for work, ms in samples.items()]

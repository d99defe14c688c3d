"""Metrics that throughput and memory share: where a climb ended, the largest batch, and growth with length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from ...results.record import Metric, Scalar
from ..base import Row
from ..measuring.metrics import At
from .points import of_role
from .scaling import exponent_metrics
from .sweep import SweepSettings


def climb_end(rows: Sequence[Row], settings: SweepSettings) -> list[Row]:
    """The row at which the first climb of `prefill` ended: its first failure, or its longest length; empty if none."""
    batch_of = settings.batches()[0]
    prefill = (row for row in of_role(rows, "sweep") if row["mode"] == "prefill")
    climbed = [row for row in prefill if row["batch_size"] == batch_of(row["seq_len"])]
    failed = [row for row in climbed if row["status"] != "ok"]
    return failed[:1] or climbed[-1:]


def largest_batch_metrics(rows: Sequence[Row]) -> list[Metric]:
    """The largest batch that fits at each length, `MODE_largest_batch`, if a larger one ran out of memory.

    A search that ended at its maximum, at a timeout or at another failure only gives a lower bound,
    `MODE_batch_at_least`.
    """
    found: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in of_role(rows, "probe"):
        found[row["mode"], row["seq_len"]].append(row)
    return [_largest_batch(mode, probes, {"seq_len": seq_len}) for (mode, seq_len), probes in found.items()]


def _largest_batch(mode: str, probes: Sequence[Row], at: At) -> Metric:
    fits = max((row["batch_size"] for row in probes if row["status"] == "ok"), default=0)
    failed = min((row for row in probes if row["status"] != "ok"), key=lambda row: row["batch_size"], default=None)
    if not fits and failed is not None:
        return Metric(f"{mode}_largest_batch", None, "1", True, None, 0, at, failed["status"])
    is_largest = failed is not None and failed["status"] == "oom"
    name = f"{mode}_largest_batch" if is_largest else f"{mode}_batch_at_least"
    return Metric(name, fits, "1", True, None, len(probes), at)


def growth_metrics(
    name: str, rows: Sequence[Row], settings: SweepSettings, size_of: Callable[[Row], float | None]
) -> list[Metric]:
    """Scaling exponents of each climb in `rows`; `size_of` reads the quantity that grows from a row, None for none."""
    climbs: dict[tuple[str, tuple[tuple[str, Scalar], ...]], list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        if row["status"] == "ok" and (size := size_of(row)):
            rest = tuple((key, value) for key, value in settings.at(row).items() if key != "seq_len")
            climbs[row["mode"], rest].append((row["seq_len"], size))
    return [
        metric for (mode, rest), points in climbs.items() for metric in exponent_metrics(name, mode, points, dict(rest))
    ]

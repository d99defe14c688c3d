"""Metrics of kernels from the rows of the tasks `kernels/*`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..kernels.fused_costs import (
    KernelCost,
    distillation_cost,
    fused_backward_cost,
    fused_decode_cost,
    fused_forward_cost,
)
from ..results.record import Metric, Scalar
from .base import Row
from .kernel_shapes import KernelShape
from .machine_peak import machine_metrics

CALLS: Mapping[str, tuple[str, ...]] = {
    "forward": ("forward",),
    "backward": ("backward", "forward_backward"),
    "decode": ("decode",),
    "distillation": ("distillation",),
}
"""What each work times."""


def kernel_metrics(work: str, rows: Sequence[Row]) -> list[Metric]:
    """The headline, the machine's peaks, and the metrics of every point.

    What ran is a coordinate of the time of the first call: as one of all metrics it would part a line in two where a
    kernel takes over from another.
    """
    machine: Row = next(row["machine"] for row in rows if "machine" in row)
    points = [row for row in rows if "contender" in row]
    metrics = machine_metrics(machine)
    peaks = tuple(metric.value or 0.0 for metric in metrics)
    for row in points:
        metrics += [metric for call in CALLS[work] for metric in _of_point(call, row, peaks, machine["dtype"])]
    return [*_headline(work, points), *metrics]


def _headline(work: str, points: Sequence[Row]) -> list[Metric]:
    """Tokens a second of Hedgehog's best backend at the largest shape; without a value where that failed."""
    import numpy as np

    ours = [row for row in points if row["contender"] == "hedgehog"]
    if not ours:
        return []
    row, call = ours[-1], CALLS[work][-1]
    if row["status"] != "ok":
        return [Metric("longest_tokens_per_s", None, "tokens/s", True, None, 0, status=row["status"])]
    tokens = row["batch"] * (1 if work == "decode" else row["tokens"])
    rates = 1e3 * tokens / np.asarray(row["samples_ms"][call])
    stderr = _median_stderr(rates)
    samples = tuple(rates.tolist())
    return [
        Metric("longest_tokens_per_s", float(np.median(rates)), "tokens/s", True, stderr, len(rates), samples=samples)
    ]


def _of_point(call: str, row: Row, peaks: tuple[float, ...], dtype: str) -> list[Metric]:
    import numpy as np

    shape = KernelShape(row["batch"], row["tokens"], row["heads"], row["head_dim"], row["sweep"])
    at: dict[str, Scalar] = {"contender": row["contender"], **shape.at()}
    if row["status"] != "ok":
        return [Metric(f"{call}_ms", None, "ms", False, None, 0, at, row["status"])]
    ms = np.asarray(row["samples_ms"][call])
    n, median = len(ms), float(np.median(ms))
    found = [
        Metric(f"{call}_ms", median, "ms", False, _median_stderr(ms), n, at, samples=tuple(ms.tolist())),
        Metric(f"{call}_ms_p20", float(np.percentile(ms, 20)), "ms", None, None, n, at),
        Metric(f"{call}_ms_p80", float(np.percentile(ms, 80)), "ms", None, None, n, at),
        Metric(f"{call}_first_call_s", row["first_call_s"], "s", None, None, 1, {**at, "ran": row["ran"]}),
    ]
    if row["peak_bytes"] is not None:
        found.append(Metric(f"{call}_peak_bytes", row["peak_bytes"], "bytes", False, None, 1, at))
    cost = _cost(call, row, shape, dtype)
    if cost is not None:
        best_ms = 1e3 * cost.seconds(*peaks)
        rates = {"tflop_per_s": ("TFLOP/s", cost.flops), "tb_per_s": ("TB/s", cost.bytes)}
        found += [Metric(f"{call}_{name}", count / median / 1e9, unit, True, None, n, at)
                  for name, (unit, count) in rates.items() if count]  # fmt: skip
        found.append(Metric(f"{call}_percent_of_roofline", 100 * best_ms / median, "%", True, None, n, at))
    return found


def _cost(call: str, row: Row, shape: KernelShape, dtype: str) -> KernelCost | None:
    """Counts of Hedgehog's attention; None for what has no counts of its own."""
    if not row["contender"].startswith("hedgehog"):
        return None
    token_heads, d = shape.batch * shape.tokens * shape.heads, shape.head_dim
    sizes: dict[str, Any] = {"token_heads": token_heads, "d": d, "dtype": dtype}
    form = row["ran"].split("/")[0]
    if call == "decode":
        return fused_decode_cost(heads=shape.batch * shape.heads, d=d)
    if call == "distillation":
        return distillation_cost(pairs=token_heads * (shape.tokens + 1) // 2, d=d)
    if call == "forward":
        return fused_forward_cost(form, **sizes)
    backward = fused_backward_cost(**sizes)
    if call == "backward":
        return backward
    return fused_forward_cost(form, **sizes) + backward


def _median_stderr(values: Any) -> float | None:
    import numpy as np

    from ..results.statistics import index_bootstrap

    return index_bootstrap(lambda draws: np.median(values[draws], axis=1), len(values))

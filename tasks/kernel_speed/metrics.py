"""Metrics of kernels from the rows of the tasks `kernels/*`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...kernels import costs, fused_costs
from ...results.record import Metric
from ..base import Row
from ..heavy import np
from ..measuring.machine import machine_metrics
from ..measuring.metrics import clock_metrics, spread_metrics
from .contenders import EXP
from .shapes import KernelShape

CALLS: Mapping[str, tuple[str, ...]] = {
    "forward": ("forward",),
    "backward": ("backward", "forward_backward"),
    "decode": ("decode",),
    "distillation": ("distillation",),
}
"""What each workload times."""

OURS = "hedgehog"
"""Prefix of our contenders' names."""


def kernel_metrics(work: str, rows: Sequence[Row]) -> list[Metric]:
    """The headline, the machine's peaks, and the metrics of every point.

    The kernel that ran is a coordinate of the first call's time only: as a coordinate of all metrics it would split a
    contender's line wherever the kernel changes with the length.
    """
    machine: Row = next(row["machine"] for row in rows if "machine" in row)
    points = [row for row in rows if "contender" in row]
    metrics = machine_metrics(machine)
    peaks = tuple(metric.value or 0.0 for metric in metrics)
    for row in points:
        metrics += [metric for call in CALLS[work] for metric in _point_metrics(call, row, peaks, machine["dtype"])]
    return [*_headline(work, points), *metrics]


def _headline(work: str, points: Sequence[Row]) -> list[Metric]:
    """Tokens per second of the contender `hedgehog` at its last shape, and their spread; no value if it failed."""
    ours = [row for row in points if row["contender"] == "hedgehog"]
    if not ours:
        return []
    row, name = ours[-1], "longest_tokens_per_s"
    if row["status"] != "ok":
        return [Metric(name, None, "tokens/s", True, None, 0, status=row["status"])]
    tokens = row["batch"] * (1 if work == "decode" else row["tokens"])
    rates = 1e3 * tokens / np.asarray(row["calls"][CALLS[work][-1]]["samples_ms"])
    return spread_metrics(name, rates, "tokens/s", True, {})


def _point_metrics(call: str, row: Row, peaks: tuple[float, ...], dtype: str) -> list[Metric]:
    shape = KernelShape(row["batch"], row["tokens"], row["heads"], row["head_dim"], row["sweep"])
    at = {"contender": row["contender"], **shape.at()}
    if row["status"] != "ok":
        return [Metric(f"{call}_ms", None, "ms", False, None, 0, at, row["status"])]
    measured: Row = row["calls"][call]
    median, *percentiles = spread_metrics(f"{call}_ms", measured["samples_ms"], "ms", False, at)
    ran = {**at, "ran": measured["ran"]}
    first = Metric(f"{call}_first_call_s", measured["first_call_s"], "s", None, None, 1, ran)
    found = [median, *percentiles, first]
    if (error := measured.get("relative_error")) is not None:
        found.append(Metric(f"{call}_relative_error", error, "", False, None, 1, at))
    if measured["peak_bytes"] is not None:
        found.append(Metric(f"{call}_peak_bytes", measured["peak_bytes"], "bytes", False, None, 1, at))
    found += clock_metrics(call, measured["telemetry"], at)
    cost = cost_of(call, row["contender"], measured["ran"], shape, dtype)
    return found if cost is None else [*found, *_cost_metrics(call, row["contender"], cost, median, peaks)]


def _cost_metrics(call: str, contender: str, cost: costs.Cost, time: Metric, peaks: tuple[float, ...]) -> list[Metric]:
    """Counts; for Hedgehog's attention also rates and the share of the roofline at the median time."""
    assert time.value is not None
    counts = (("flops", "flops", cost.flops), ("traffic_bytes", "bytes", cost.bytes))
    found = [Metric(f"{call}_{name}", count, unit, None, None, 1, time.at) for name, unit, count in counts if count]
    if contender.startswith(OURS):
        shares = (
            ("tflop_per_s", "TFLOP/s", cost.flops / time.value / 1e9),
            ("tb_per_s", "TB/s", cost.bytes / time.value / 1e9),
            ("percent_of_roofline", "%", 1e5 * cost.seconds(*peaks) / time.value),
        )
        found += [
            Metric(f"{call}_{name}", share, unit, True, None, time.n, time.at) for name, unit, share in shares if share
        ]
    return found


def cost_of(call: str, contender: str, ran: str, shape: KernelShape, dtype: str) -> costs.Cost | None:
    """Counted FLOPs and bytes of Hedgehog's attention by this project, and of softmax attention without gradients.

    Args:
        call: What was timed, as in `CALLS`.
        contender: Name of the contender.
        ran: Form and backend that ran, such as `chunk/triton`.
        shape: Shape of the call.
        dtype: Name of its tensors' type.

    Returns:
        The counts; None if the call of this contender has none.
    """
    if contender.startswith("softmax") and call in ("forward", "decode"):
        sizes = {"b": shape.batch, "h": shape.heads, "hk": shape.heads, "d": shape.head_dim, "dv": shape.head_dim}
        given = {**sizes, "tokens": shape.tokens, "bytes_per_element": fused_costs.ELEMENT_BYTES[dtype]}
        return costs.softmax_cost(decodes=call == "decode", backend=ran.split("/")[-1], causal=True, **given)
    if not contender.startswith(OURS):
        return None
    if call == "decode":
        return fused_costs.fused_decode_cost(heads=shape.batch * shape.heads, d=shape.head_dim)
    if call == "distillation":
        token_heads = shape.batch * shape.tokens * shape.heads
        pairs = token_heads * (shape.tokens + 1) // 2
        return fused_costs.distillation_cost(pairs=pairs, token_heads=token_heads, d=shape.head_dim)
    form, log_space = ran.split("/")[0], contender.endswith(EXP)
    walk = fused_costs.Walk(form, shape.batch, shape.heads, shape.tokens, shape.head_dim, dtype, log_space)
    return {"forward": walk.forward, "backward": walk.backward}.get(call, walk.forward + walk.backward)

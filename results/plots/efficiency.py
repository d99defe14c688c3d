"""Plots of the costs of attention: the paper's efficiency figure, quality against cost, rooflines, crossovers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ..record import Record
from ..tables.aggregate import is_comparable, main_rows
from ..tables.format import format_status
from ..tables.ranks import disturbances_of
from ..tables.row import AXIS, REFERENCE_MODEL, Conditions, Row, grouped
from ..tables.tables import metric_label
from . import draw
from .draw import Plot, Styles
from .scales import set_cost_axis, set_length_axis, set_plain_ticks, set_score_axis
from .sweeps import mark_crossovers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE_6 = (("layer_prefill_ms", "time of the attention layer [ms]"), ("prefill_ms", "time of the model [ms]"),
            ("peak_allocated_bytes", "peak memory of the model"))  # fmt: skip
"""Panels of the paper's efficiency figure: metrics over sequence length, and their labels."""

_COUNTED = ("layer_prefill", "layer_decode", "forward", "backward", "forward_backward", "decode", "distillation")
"""Modes of `throughput` and calls of `kernels/*` whose FLOPs and bytes are counted."""

_EFFICIENCY = ("prefill_ms", "train_ms", "decode_ms", "peak_allocated_bytes")
_TASKS = ("throughput", "memory")
_MEMORY_MODE = "prefill"
_STEP = ("batch_size", "tokens_per_step")
"""Coordinates that state the size of a call."""

_MOST_LENGTHS = 5
"""Most lengths with a label in a narrow panel."""


@dataclass(frozen=True)
class Roof:
    """A machine's peaks for numbers of one type.

    Attributes:
        flops_per_s: FLOP/s of dense matrix products, without sparsity.
        bytes_per_s: Memory bandwidth.
        source: The source that prints the numbers, or how they were measured.
    """

    flops_per_s: float
    bytes_per_s: float
    source: str


_H100 = "NVIDIA H100 Tensor Core GPU datasheet; its numbers with sparsity halved"
_H200 = "NVIDIA H200 Tensor Core GPU datasheet; its numbers with sparsity halved"

DEVICE_PEAKS: Mapping[str, Mapping[str, Roof]] = {
    "NVIDIA H100 80GB HBM3": {"bfloat16": Roof(989.5e12, 3.35e12, _H100), "float32": Roof(67e12, 3.35e12, _H100)},
    "NVIDIA H100 PCIe": {"bfloat16": Roof(756.5e12, 2.0e12, _H100), "float32": Roof(51e12, 2.0e12, _H100)},
    "NVIDIA H100 NVL": {"bfloat16": Roof(835.5e12, 3.9e12, _H100), "float32": Roof(60e12, 3.9e12, _H100)},
    "NVIDIA H200": {"bfloat16": Roof(989.5e12, 4.8e12, _H200), "float32": Roof(67e12, 4.8e12, _H200)},
}
"""Peaks of NVIDIA devices, as their datasheets print them, by the name that the driver gives, then by type.

float32 is without tensor cores, as this project runs it (`ieee`, no TF32).
"""


@dataclass(frozen=True)
class _Counted:
    """A measured time with its arithmetic intensity, counted, and the FLOP/s that it reaches."""

    row: Row
    flops_per_byte: float
    flops_per_s: float


def efficiency_plots(records: Sequence[Record], rows: Sequence[Row], styles: Styles) -> Iterator[Plot]:
    """Every plot for which the records have numbers."""
    yield from _paper_figures(rows, styles)
    yield from _pareto_figures(rows, styles)
    yield from _roofline_figures(records, rows, styles)


def _where(comparison: Conditions) -> tuple[Any, ...]:
    """The conditions that measurements of different tasks must share to stand in one plot."""
    return comparison.backbone, comparison.scale, comparison.limit


def _text(comparison: Conditions) -> str:
    return f"{comparison.backbone}, {comparison.scale}"


def _is_plain_sweep(row: Row, metric: str) -> bool:
    """Whether a row has that metric over length; peaks of memory count only if they are those of prefill."""
    is_mode = row.coordinates.get("mode", _MEMORY_MODE) == _MEMORY_MODE
    return row.metric == metric and row.has_seq_len and is_mode


def _smallest_batch(rows: Sequence[Row]) -> list[Row]:
    """The rows at the smallest batch of sweeps at several batches."""
    smallest = min(map(_batch, rows))
    return [row for row in rows if _batch(row) == smallest]


def _batch(row: Row) -> float:
    steps = (row.coordinates.get(name) for name in _STEP)
    return next((float(step) for step in steps if step), 0.0)


def _paper_figures(rows: Sequence[Row], styles: Styles) -> Iterator[Plot]:
    measured = (row for row in rows if row.comparison.task.partition(":")[0] in _TASKS)
    for members in grouped(measured, lambda row: _where(row.comparison)).values():
        sweeps = [(label, [row for row in members if _is_plain_sweep(row, metric)]) for metric, label in FIGURE_6]
        panels = [(label, found) for label, found in sweeps if len({row.seq_len for row in found}) > 1]
        if len(panels) > 1:
            first = panels[0][1][0].comparison
            title = f"Time and memory over sequence length, the form of the paper's figure 6 ({_text(first)})"
            yield Plot("figure6", first, title, _paper_figure(panels, styles, title))


def _paper_figure(panels: Sequence[tuple[str, Sequence[Row]]], styles: Styles, title: str) -> Figure:
    figure, every_axes = draw.new_figure(2.4 + 3.6 * len(panels), 4.0, len(panels))
    handles: dict[str, Any] = {}
    for axes, (label, found) in zip(every_axes, panels, strict=True):
        chosen = _smallest_batch(found)
        handles |= _draw_sweep(axes, chosen, styles)
        mark_crossovers(axes, chosen, styles)
        axes.set_xlabel(f"{AXIS}, {chosen[0].other_coordinates(AXIS, 'mode')}")
        axes.set_ylabel(label)
    return draw.finished(figure, title, handles)


def _draw_sweep(axes: Axes, rows: Sequence[Row], styles: Styles) -> dict[str, Any]:
    """A line per model with its standard errors; a cross at the top for each point without a value."""
    handles: dict[str, Any] = {}
    for label, own in grouped(rows, lambda row: row.label).items():
        own.sort(key=lambda row: row.seq_len)
        handles[label] = draw.sweep(axes, own, styles[label])
        for row in own:
            if row.value is None:
                draw.mark_missing(axes, [row.seq_len], styles[label])
                (handles[f"no value: {format_status(row.status)}"],) = axes.plot([], [], color="#777777", **draw.CROSS)
    axes.margins(y=0.12)
    set_length_axis(axes, rows, _MOST_LENGTHS)
    set_cost_axis(axes, "y", [row.value for row in rows if row.value is not None], rows[0].unit)
    return handles


def _pareto_figures(rows: Sequence[Row], styles: Styles) -> Iterator[Plot]:
    """The main metric of each task of quality against each cost of the same model, backbone and scale."""
    places = grouped(rows, lambda row: _where(row.comparison))
    costs = {(where, name): longest_costs(own, name) for where, own in places.items() for name in _EFFICIENCY}
    for comparison, main in main_rows(rows).items():
        for metric in _EFFICIENCY:
            own = costs[_where(comparison), metric]
            scores = (row for row in main if row.value is not None and row.is_quality)
            joined = [(row, own[row.model]) for row in scores if row.model in own]
            if len({row.model for row, _ in joined}) > 1:
                at = joined[0][1].seq_len
                title = f"{comparison.task}: quality against {metric} at {AXIS}={at:g} ({_text(comparison)})"
                yield Plot(f"pareto-{metric}", comparison, title, _pareto_figure(joined, styles, title))


Costs: TypeAlias = Mapping[str, Row]
"""A cost of each model, all at one length and batch."""


def longest_costs(rows: Iterable[Row], metric: str) -> Costs:
    """A cost of each model at the longest length at which all models have it; empty if there is no such length.

    If softmax is among them, others count only if they were measured under the same conditions.

    Args:
        rows: Rows of one backbone and scale.
        metric: Name of the cost.
    """
    swept = [row for row in rows if row.variant == 0 and _is_plain_sweep(row, metric)]
    softmax = next((row for row in swept if row.model == REFERENCE_MODEL), None)
    swept = [row for row in swept if softmax is None or is_comparable(row, softmax)]
    chosen = _smallest_batch(swept) if swept else []
    by_length = {
        length: {row.model: row for row in own if row.value is not None}
        for length, own in grouped(chosen, lambda row: row.seq_len).items()
    }
    models = {row.model for row in chosen}
    common = [length for length, by_model in by_length.items() if by_model.keys() == models]
    return by_length[max(common)] if common else {}


def noise_note(costs: Sequence[Row]) -> str:
    """What an axis label says of costs that are times of a machine that was not quiet; empty otherwise."""
    reason = next(filter(None, disturbances_of(costs)), "")
    return f"\n({reason}: times are not compared)" if reason else ""


def _pareto_figure(joined: Sequence[tuple[Row, Row]], styles: Styles, title: str) -> Figure:
    figure, (axes,) = draw.new_figure(7.2, max(3.8, 1.3 + 0.21 * len(joined)))
    handles: dict[str, Any] = {}
    for row, cost in joined:
        bars = draw.point(axes, cost.value, row.value, styles[row.label], xerr=cost.stderr, yerr=row.stderr)
        handles[row.label] = bars
    front = pareto_front([(cost.value or 0.0, row.value or 0.0) for row, cost in joined], joined[0][0].higher_is_better)
    (handles["no other is better in both"],) = axes.plot(
        *zip(*front, strict=True), color="#999999", linewidth=1, linestyle="--", zorder=0
    )
    axes.margins(x=0.15, y=0.12)
    set_cost_axis(axes, "x", [cost.value or 0.0 for _, cost in joined], joined[0][1].unit)
    set_score_axis(axes, "y", [row for row, _ in joined])
    axes.set_xlabel(draw.plain(metric_label(joined[0][1]) + noise_note([cost for _, cost in joined])))
    axes.set_ylabel(draw.plain(metric_label(joined[0][0])))
    return draw.finished(figure, title, handles)


def pareto_front(points: Iterable[tuple[float, float]], higher_is_better: bool | None) -> list[tuple[float, float]]:
    """The points of (cost, quality) that no other point beats in both, cheapest first."""
    sign = 1.0 if higher_is_better else -1.0
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if not front or sign * quality > sign * front[-1][1]:
            front.append((cost, quality))
    return front


def _roofline_figures(records: Sequence[Record], rows: Sequence[Row], styles: Styles) -> Iterator[Plot]:
    for mode in _COUNTED:
        for comparison, points in grouped(_counted(rows, mode), lambda point: point.row.comparison).items():
            roof = _roof([record for record in records if record.task == comparison.task])
            if roof is not None:
                title = f"{comparison.task}: roofline of {mode} ({_text(comparison)})"
                yield Plot(f"roofline-{mode}", comparison, title, _roofline(points, roof, styles, title))


def _counted(rows: Sequence[Row], mode: str) -> Iterator[_Counted]:
    """The times of a mode with the FLOPs and bytes that were counted for the same point."""
    counts = {(row.comparison, row.key, row.at, row.metric): row.value for row in rows}
    for row in rows:
        if row.metric == f"{mode}_ms" and row.value:
            names = (f"{mode}_flops", f"{mode}_traffic_bytes")
            flops, traffic = (counts.get((row.comparison, row.key, row.at, name)) for name in names)
            if flops and traffic:
                yield _Counted(row, flops / traffic, 1e3 * flops / row.value)


def _roof(records: Sequence[Record]) -> Roof | None:
    """The datasheet's peaks if the device is in `DEVICE_PEAKS`; otherwise the highest that the run measured.

    The peak of matrix products is that of their own type, which a measured product states; the cell's type may differ.
    """
    for record in records:
        peaks = DEVICE_PEAKS.get(str(record.environment.get("gpu")), {})
        products = [m.at["dtype"] for m in record.metrics if m.name == "machine_gemm_flops_per_s"]
        dtype = str(next(iter(products), record.environment.get("dtype")))
        if dtype in peaks:
            return peaks[dtype]
    flops, traffic = (
        max((m.value or 0.0 for record in records for m in record.metrics if m.name == name), default=0.0)
        for name in ("machine_gemm_flops_per_s", "machine_copy_bytes_per_s")
    )
    return Roof(flops, traffic, "matrix product and copy measured in the same run") if flops and traffic else None


def _roofline(points: Sequence[_Counted], roof: Roof, styles: Styles, title: str) -> Figure:
    """Achieved FLOP/s against FLOPs per byte by counting; points of a model's one layer are joined, short to long."""
    figure, (axes,) = draw.new_figure(7.6, 4.4)
    handles: dict[str, Any] = {}
    ridge = roof.flops_per_s / roof.bytes_per_s
    intensities = [point.flops_per_byte for point in points]
    low, high = min(*intensities, ridge) / 3, max(*intensities, ridge) * 3
    heights = [low * roof.bytes_per_s, roof.flops_per_s, roof.flops_per_s]
    (handles["roof"],) = axes.plot([low, ridge, high], heights, color="#000000", linewidth=1.2)
    layers = grouped(points, lambda point: (point.row.label, point.row.other_coordinates(AXIS, *_STEP)))
    for (label, _), own in layers.items():
        own.sort(key=lambda point: (_batch(point.row), point.row.seq_len))
        places = [(point.flops_per_byte, point.flops_per_s) for point in own]
        (line,) = axes.plot(*zip(*places, strict=True), linewidth=1, markersize=5, **styles[label].look)
        handles.setdefault(label, line)
        look: dict[str, Any] = {"textcoords": "offset points", "color": styles[label].colour, "fontsize": 8}
        axes.annotate(f"{own[-1].row.seq_len:g}", places[-1], xytext=(5, 4), **look)
    axes.set_xscale("log")
    axes.set_yscale("log")
    set_plain_ticks(axes.xaxis)
    set_plain_ticks(axes.yaxis)
    axes.set_xlabel(f"FLOPs per byte, by counting\nroof: {roof.source}")
    axes.set_ylabel("FLOP/s, counted over measured time")
    return draw.finished(figure, title, handles)

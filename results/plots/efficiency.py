"""Plots of what attention costs: the paper's efficiency figure, quality against cost, rooflines, crossovers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..record import Record
from ..tables.aggregate import Conditions, Row, main_rows
from ..tables.efficiency import AXIS, crossovers_of_sweep
from ..tables.format import format_status
from ..tables.tables import metric_label, model_label
from .device_peaks import device_peak
from .style import Style, add_legend, add_title, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE_6 = (("layer_prefill_ms", "time of the attention layer [ms]"), ("prefill_ms", "time of the model [ms]"),
            ("peak_allocated_bytes", "peak memory of the model [bytes]"))  # fmt: skip
"""Panels of the paper's efficiency figure: metrics over sequence length, and their labels."""

_COUNTED = ("layer_prefill", "layer_decode", "forward", "backward", "forward_backward", "decode", "distillation")
"""What has FLOPs and bytes by counting: an attention layer's passes, and the calls of `kernels/*`."""

_EFFICIENCY = ("prefill_ms", "train_ms", "decode_ms", "peak_allocated_bytes")
_TASKS = ("throughput", "memory")
_MEMORY_MODE = "prefill"
_FAILED: Mapping[str, Any] = {"marker": "x", "linestyle": "none", "markersize": 7, "markeredgewidth": 2}
_Figures = Iterator[tuple[str, Conditions, str, "Figure"]]


@dataclass(frozen=True)
class Roof:
    """What a machine can do at most: FLOP/s, bytes per second, and where that is known from."""

    flops_per_s: float
    bytes_per_s: float
    source: str


def efficiency_figures(records: Sequence[Record], rows: Sequence[Row], styles: Mapping[str, Style]) -> _Figures:
    """Kind, comparison, title and figure of each plot that the records allow."""
    yield from _paper_figures(rows, styles)
    yield from _pareto_figures(rows, styles)
    yield from _roofline_figures(records, rows, styles)


def mark_crossovers(axes: Axes, rows: Sequence[Row], styles: Mapping[str, Style]) -> None:
    """A ring where a model's line crosses softmax's, with the length beside it; in the colour of the model."""
    for i, found in enumerate(crossovers_of_sweep(rows)):
        if found.length is None or found.value is None:
            continue
        colour = styles[model_label(*found.model)].colour
        axes.plot(
            found.length, found.value, marker="o", markersize=11, markerfacecolor="none", markeredgecolor=colour,
            linestyle="none", zorder=4,
        )  # fmt: skip
        axes.annotate(
            f"{found.length:.0f}", (found.length, found.value), xytext=(8, -12 - 11 * (i % 3)),
            textcoords="offset points", color=colour, fontsize=8,
        )  # fmt: skip


def _where(comparison: Conditions) -> tuple[Any, ...]:
    """What measurements of one model must share to stand together, whichever the task."""
    return comparison.backbone, comparison.scale, comparison.limit


def _text(comparison: Conditions) -> str:
    return f"{comparison.backbone}, {comparison.scale}"


def _label(row: Row) -> str:
    return model_label(row.model, row.variant)


def _length(row: Row) -> float:
    return float(row.coordinates[AXIS] or 0)


def _is_plain_sweep(row: Row, metric: str) -> bool:
    """Whether a row is of that metric over length; of peaks of memory, those of prefill."""
    if row.metric != metric or not isinstance(row.coordinates.get(AXIS), int | float):
        return False
    return row.coordinates.get("mode", _MEMORY_MODE) == _MEMORY_MODE


def _smallest_batch(rows: Sequence[Row]) -> list[Row]:
    """Of sweeps at several batches, the rows of the smallest."""
    sizes = {_batch(row) for row in rows}
    return [row for row in rows if _batch(row) == min(sizes)]


def _batch(row: Row) -> float:
    return float(row.coordinates.get("batch_size") or row.coordinates.get("tokens_per_step") or 0)


def _layer(row: Row) -> tuple[Any, ...]:
    """What sets one layer apart from another of the same model: all coordinates but length and batch."""
    rest = row.coordinates.keys() - {AXIS, "batch_size", "tokens_per_step"}
    return tuple((key, row.coordinates[key]) for key in sorted(rest))


def _paper_figures(rows: Sequence[Row], styles: Mapping[str, Style]) -> _Figures:
    places: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row.comparison.task.partition(":")[0] in _TASKS:
            places[_where(row.comparison)].append(row)
    for members in places.values():
        sweeps = [(label, [row for row in members if _is_plain_sweep(row, metric)]) for metric, label in FIGURE_6]
        panels = [(label, found) for label, found in sweeps if len(set(map(_length, found))) > 1]
        if len(panels) > 1:
            first = panels[0][1][0].comparison
            title = f"Time and memory over sequence length, the form of the paper's figure 6 ({_text(first)})"
            yield "figure6", first, title, _paper_figure(panels, styles, title)


def _paper_figure(panels: Sequence[tuple[str, Sequence[Row]]], styles: Mapping[str, Style], title: str) -> Figure:
    figure, every_axes = new_figure(2.4 + 3.6 * len(panels), 4.0, len(panels))
    handles: dict[str, Any] = {}
    for axes, (label, found) in zip(every_axes, panels, strict=True):
        chosen = _smallest_batch(found)
        handles |= _draw_sweep(axes, chosen, styles)
        mark_crossovers(axes, chosen, styles)
        axes.set_xlabel(f"{AXIS}, {', '.join(_rest(chosen[0]))}")
        axes.set_ylabel(label)
    add_title(figure, title)
    add_legend(figure, handles)
    return figure


def _rest(row: Row) -> list[str]:
    return [f"{key}={row.coordinates[key]}" for key in sorted(row.coordinates) if key not in (AXIS, "mode")]


def _draw_sweep(axes: Axes, rows: Sequence[Row], styles: Mapping[str, Style]) -> dict[str, Any]:
    """A line per model on logarithmic axes; a cross above a model's last point where the next has no value."""
    handles: dict[str, Any] = {}
    for label in dict.fromkeys(map(_label, rows)):
        own = sorted((row for row in rows if _label(row) == label), key=_length)
        measured, style = [row for row in own if row.value is not None], styles[label]
        (line,) = axes.plot(
            [_length(row) for row in measured], [row.value or 0.0 for row in measured],
            color=style.colour, marker=style.marker, linestyle=style.line, markersize=5, linewidth=1.5,
        )  # fmt: skip
        handles[plain(label)] = line
        for row in own:
            if row.value is None:
                axes.plot(_length(row), 0.97, color=style.colour, transform=axes.get_xaxis_transform(), **_FAILED)
                (entry,) = axes.plot([], [], color="#777777", **_FAILED)
                handles[f"no value: {format_status(row.status)}"] = entry
    _set_log_axes(axes, sorted({_length(row) for row in rows}))
    return handles


def _set_log_axes(axes: Axes, lengths: Sequence[float]) -> None:
    from matplotlib.ticker import NullFormatter

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [f"{length:g}" for length in lengths], rotation=45 if len(lengths) > 6 else 0)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(y=0.12)


def _pareto_figures(rows: Sequence[Row], styles: Mapping[str, Style]) -> _Figures:
    """The main metric of each task that measures quality against each cost of the same model, backbone and scale."""
    costs = _costs(rows)
    for comparison, main in main_rows(rows).items():
        if comparison.task.partition(":")[0] in _TASKS:
            continue
        for metric in _EFFICIENCY:
            joined = [
                (row, cost)
                for row in main
                if row.value is not None and (cost := costs.get((_where(comparison), metric, row.model))) is not None
            ]
            at = {_length(cost) for _, cost in joined}
            if len({row.model for row, _ in joined}) > 1 and len(at) == 1:
                title = f"{comparison.task}: quality against {metric} at {AXIS}={at.pop():g} ({_text(comparison)})"
                yield f"pareto-{metric}", comparison, title, _pareto_figure(joined, styles, title)


def _costs(rows: Sequence[Row]) -> dict[tuple[Any, ...], Row]:
    """Of each place, cost and model, the row at the longest length that all models of the place were measured at."""
    sweeps: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        for metric in _EFFICIENCY:
            if row.variant == 0 and _is_plain_sweep(row, metric):
                sweeps[_where(row.comparison), metric].append(row)
    found: dict[tuple[Any, ...], Row] = {}
    for (place, metric), members in sweeps.items():
        chosen = _smallest_batch(members)
        models = {row.model for row in chosen}
        by_length: dict[float, dict[str, Row]] = defaultdict(dict)
        for row in chosen:
            if row.value is not None:
                by_length[_length(row)][row.model] = row
        common = [length for length, by_model in by_length.items() if by_model.keys() == models]
        found |= {(place, metric, model): row for model, row in by_length[max(common, default=0.0)].items()}
    return found


def _pareto_figure(joined: Sequence[tuple[Row, Row]], styles: Mapping[str, Style], title: str) -> Figure:
    figure, (axes,) = new_figure(7.2, max(3.8, 1.3 + 0.21 * len(joined)))
    handles: dict[str, Any] = {}
    for row, cost in joined:
        style = styles[_label(row)]
        handles[plain(_label(row))] = axes.errorbar(
            cost.value or 0.0, row.value or 0.0, xerr=cost.stderr or None, yerr=row.stderr or None,
            fmt=style.marker, color=style.colour, capsize=3, markersize=7,
        )  # fmt: skip
    front = pareto_front([(cost.value or 0.0, row.value or 0.0) for row, cost in joined], joined[0][0].higher_is_better)
    (line,) = axes.plot(*zip(*front, strict=True), color="#999999", linewidth=1, linestyle="--", zorder=0)
    handles["no other is better in both"] = line
    axes.set_xscale("log")
    axes.margins(x=0.15, y=0.12)
    axes.set_xlabel(plain(metric_label(joined[0][1])))
    axes.set_ylabel(plain(metric_label(joined[0][0])))
    add_title(figure, title)
    add_legend(figure, handles)
    return figure


def pareto_front(points: Iterable[tuple[float, float]], higher_is_better: bool | None) -> list[tuple[float, float]]:
    """The points of (cost, quality) that no other point beats in both, cheapest first."""
    sign = 1.0 if higher_is_better else -1.0
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if not front or sign * quality > sign * front[-1][1]:
            front.append((cost, quality))
    return front


def _roofline_figures(records: Sequence[Record], rows: Sequence[Row], styles: Mapping[str, Style]) -> _Figures:
    for mode in _COUNTED:
        places: dict[Conditions, list[tuple[Row, float, float]]] = defaultdict(list)
        for row, flops, traffic in _counted(rows, mode):
            places[row.comparison].append((row, flops, traffic))
        for comparison, points in places.items():
            roof = _roof([record for record in records if record.task == comparison.task])
            if roof is not None:
                title = f"{comparison.task}: roofline of {mode} ({_text(comparison)})"
                yield f"roofline-{mode}", comparison, title, _roofline(points, roof, styles, title)


def _counted(rows: Sequence[Row], mode: str) -> Iterator[tuple[Row, float, float]]:
    """The times of a mode with the FLOPs and bytes counted of the same point."""
    counts = {(_key(row), row.metric): row.value for row in rows if row.metric.startswith(f"{mode}_")}
    for row in rows:
        if row.metric == f"{mode}_ms" and row.value:
            flops, traffic = counts.get((_key(row), f"{mode}_flops")), counts.get((_key(row), f"{mode}_traffic_bytes"))
            if flops and traffic:
                yield row, flops, traffic


def _key(row: Row) -> tuple[Any, ...]:
    return row.comparison, row.model, row.variant, row.at


def _roof(records: Sequence[Record]) -> Roof | None:
    """The datasheet's peaks for a device in our table; else the best that the run measured beside its kernels.

    The peak of products is that of what they are made of, which a measured one says and may not be the cell's type.
    """
    for record in records:
        peak = device_peak(str(record.environment.get("gpu")))
        products = [m.at["dtype"] for m in record.metrics if m.name == "machine_gemm_flops_per_s"]
        dtype = str(next(iter(products), record.environment.get("dtype")))
        if peak is not None and dtype in peak.flops_per_s:
            return Roof(peak.flops_per_s[dtype], peak.bytes_per_s, peak.source)
    measured: dict[str, list[float]] = defaultdict(list)
    for record in records:
        for metric in record.metrics:
            if metric.name.startswith("machine_") and metric.value is not None:
                measured[metric.name].append(metric.value)
    if len(measured) < 2:
        return None
    flops, traffic = (max(measured[f"machine_{name}_per_s"]) for name in ("gemm_flops", "copy_bytes"))
    return Roof(flops, traffic, "matrix product and copy measured in the same run")


def _roofline(
    points: Sequence[tuple[Row, float, float]], roof: Roof, styles: Mapping[str, Style], title: str
) -> Figure:
    """Achieved FLOP/s against FLOPs per byte by counting; points of a model's one layer are joined, short to long."""
    figure, (axes,) = new_figure(7.6, 4.4)
    handles: dict[str, Any] = {}
    ridge = roof.flops_per_s / roof.bytes_per_s
    intensities = [flops / traffic for _, flops, traffic in points]
    low, high = min(*intensities, ridge) / 3, max(*intensities, ridge) * 3
    (line,) = axes.plot([low, ridge, high], [low * roof.bytes_per_s, roof.flops_per_s, roof.flops_per_s],
                        color="#000000", linewidth=1.2)  # fmt: skip
    handles["roof"] = line
    for label, layer in dict.fromkeys((_label(row), _layer(row)) for row, _, _ in points):
        own = [point for point in points if (_label(point[0]), _layer(point[0])) == (label, layer)]
        own.sort(key=lambda point: (_batch(point[0]), _length(point[0])))
        style = styles[label]
        (line,) = axes.plot(
            [flops / traffic for _, flops, traffic in own],
            [1e3 * flops / (row.value or 1.0) for row, flops, _ in own],
            color=style.colour, marker=style.marker, linestyle=style.line, linewidth=1, markersize=5,
        )  # fmt: skip
        handles.setdefault(plain(label), line)
        last, flops, traffic = own[-1]
        axes.annotate(f"{_length(last):g}", (flops / traffic, 1e3 * flops / (last.value or 1.0)),
                      xytext=(5, 4), textcoords="offset points", color=style.colour, fontsize=8)  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(f"FLOPs per byte, by counting\nroof: {roof.source}")
    axes.set_ylabel("FLOP/s, counted over measured time")
    add_title(figure, title)
    add_legend(figure, handles)
    return figure

"""Plots of sweeps: a line for each model over sequence lengths, what ran out of memory or time, and crossings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..tables.efficiency import SPREAD, crossovers_of_sweep, is_detail
from ..tables.format import format_status
from ..tables.row import AXIS, Row, grouped, model_label
from . import draw
from .draw import Plot, Style, Styles
from .fidelity import LENGTHS_METRIC
from .scales import set_cost_axis, set_length_axis, set_score_axis, set_wide_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUREST = 0.1
"""Largest standard error of a crossing that is labelled, as a share of its length: noise makes and moves the others."""

LAYER, KEPT, COST = "layer", "kept_layers", "layer_cost"
"""Coordinates of the task `layer_sensitivity`, and its metric of one layer."""

_RATE, _TIME = "_tokens_per_s", "_ms"


def sweep_plots(rows: Sequence[Row], styles: Styles) -> Iterator[Plot]:
    """A plot for each sweep over lengths; of a time and its rate, which are one measurement, the time is drawn."""
    ends = {(row.comparison, row.key, row.metric, row.at): row.value for row in rows if row.metric.endswith(SPREAD)}
    timed = {(row.comparison, row.metric) for row in rows}
    swept = (row for row in rows if row.has_seq_len and row.metric != LENGTHS_METRIC and not is_detail(row))
    sweeps = grouped(swept, lambda row: (row.comparison, row.metric, row.other_coordinates(AXIS)))
    for (comparison, metric, rest), points in sweeps.items():
        is_twin = metric.endswith(_RATE) and (comparison, metric.removesuffix(_RATE) + _TIME) in timed
        if not is_twin and len({row.at for row in points}) > 1 and any(row.value is not None for row in points):
            title = draw.titled(f"{comparison.task}: {metric}" + (f", {rest}" if rest else ""), comparison)
            yield Plot("sweep", comparison, title, _figure(points, ends, styles, title), (metric, rest))


def layer_plots(rows: Sequence[Row], styles: Styles) -> Iterator[Plot]:
    """A plot for each task that swaps layers one by one: what each costs, and quality against layers that stay."""
    for comparison, all_rows in grouped(rows, lambda row: row.comparison).items():
        panels = [
            (axis, [row for row in all_rows if axis in row.coordinates and row.metric.endswith(end)])
            for axis, end in ((LAYER, COST), (KEPT, f"_{KEPT}"))
        ]
        if all(points for _, points in panels):
            title = draw.titled(f"{comparison.task}: what each layer costs alone, and layers that stay", comparison)
            figure, axes = draw.new_figure(10.0, 4.2, 2)
            handles: dict[str, Any] = {}
            for panel, (axis, points) in zip(axes, panels, strict=True):
                handles |= _over_layers(panel, axis, points, styles)
            yield Plot("layers", comparison, title, draw.finished(figure, title, handles))


def _over_layers(axes: Axes, axis: str, rows: Sequence[Row], styles: Styles) -> dict[str, Any]:
    """A line for each model over layers, or over their number; the entries of the legend."""
    from matplotlib.ticker import MaxNLocator

    handles: dict[str, Any] = {}
    for label, line in grouped(rows, lambda row: row.label).items():
        ordered = sorted(line, key=lambda row: float(row.coordinates[axis] or 0))
        xs = [float(row.coordinates[axis] or 0) for row in ordered]
        errors = [row.stderr or 0.0 for row in ordered]
        look = {**styles[label].look, "capsize": 2, "markersize": 5}
        handles[label] = axes.errorbar(xs, [row.value or 0.0 for row in ordered], yerr=errors, **look)
    if axis == LAYER:
        axes.axhline(0.0, color="#999999", linewidth=0.8, zorder=0)
    set_wide_axis(axes, [row.value or 0.0 for row in rows])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("layer that is swapped alone" if axis == LAYER else "layers that stay softmax, the costliest first")
    axes.set_ylabel(draw.plain(draw.labelled(rows)))
    return handles


def mark_crossovers(axes: Axes, rows: Sequence[Row], styles: Styles) -> None:
    """Draws a ring where a model's line surely crosses softmax's, and the length beside it, in the model's colour."""
    for i, found in enumerate(crossovers_of_sweep(rows)):
        if found.length is None or found.value is None or (found.stderr or 0.0) > SUREST * found.length:
            continue
        colour = styles[model_label(*found.model)].colour
        ring: dict[str, Any] = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "linestyle": "none"}
        axes.plot(found.length, found.value, markeredgecolor=colour, zorder=4, **ring)
        look: dict[str, Any] = {"textcoords": "offset points", "color": colour, "fontsize": 8}
        axes.annotate(f"{found.length:.0f}", (found.length, found.value), xytext=(8, -12 - 11 * (i % 3)), **look)


def _figure(rows: Sequence[Row], ends: Mapping[tuple[Any, ...], float | None], styles: Styles, title: str) -> Figure:
    """A line per model over lengths, with the spread of its samples; crosses in a band at the top have no value."""
    lines = grouped(rows, lambda row: row.label)
    figure, (axes,) = draw.new_figure(7.2, max(3.8, 1.3 + 0.21 * len(lines)))
    handles: dict[str, Any] = {}
    for label, line in lines.items():
        measured = [row for row in line if row.value is not None]
        style = styles[label]
        handles[label] = draw.sweep(axes, measured, style)
        _shade_spread(axes, measured, ends, style)
        for row in measured:
            (mark,) = axes.plot(row.seq_len, row.value or 0.0, color=style.colour, marker=style.marker, markersize=5)
            draw.tell(mark, f"{draw.told(row)} at {row.point}")
    _set_scales(axes, rows)
    mark_crossovers(axes, rows, styles)
    handles |= _mark_failures(axes, [row for row in rows if row.value is None], styles)
    axes.set_xlabel(AXIS)
    axes.set_ylabel(draw.plain(draw.labelled(rows)))
    return draw.finished(figure, title, handles)


def _shade_spread(axes: Axes, rows: Sequence[Row], ends: Mapping[tuple[Any, ...], float | None], style: Style) -> None:
    """Shades from the 20th to the 80th percentile of a line's samples, at points that have both."""
    spreads = [
        (row.seq_len, *(ends.get((row.comparison, row.key, f"{row.metric}{end}", row.at)) for end in SPREAD))
        for row in rows
    ]
    known = [(length, low, high) for length, low, high in spreads if low is not None and high is not None]
    if known:
        lengths, lows, highs = zip(*known, strict=True)
        axes.fill_between(lengths, lows, highs, color=style.colour, alpha=0.15, linewidth=0)


def _mark_failures(axes: Axes, failed: Sequence[Row], styles: Styles) -> dict[str, Any]:
    """Crosses in a grey band above the values, one line per model so that none hides another; the legend's entry."""
    if not failed:
        return {}
    from matplotlib.patches import Rectangle

    lines = grouped(failed, lambda row: row.label)
    band = min(0.45, 0.04 + 0.04 * len(lines))
    low, high = axes.get_ylim()
    is_log = axes.get_yscale() == "log"
    share = band / (1 - band)
    axes.set_ylim(low, high * (high / low) ** share if is_log else high + (high - low) * band / (1 - band))
    axes.add_patch(Rectangle((0, 1 - band), 1, band, transform=axes.transAxes, color="#eeeeee", zorder=0))
    where = axes.get_xaxis_transform()
    for i, (label, rows) in enumerate(lines.items()):
        lengths = [row.seq_len for row in rows]
        heights = [1 - band * (i + 0.5) / len(lines)] * len(lengths)
        (crosses,) = axes.plot(lengths, heights, color=styles[label].colour, transform=where, **draw.CROSS)
        draw.tell(crosses, f"{label}: no value at {', '.join(f'{AXIS}={length:g}' for length in lengths)}")
    statuses = sorted({format_status(row.status) for row in failed})
    (entry,) = axes.plot([], [], color="#777777", **draw.CROSS)
    return {f"no value: {', '.join(statuses)}": entry}


def _set_scales(axes: Axes, rows: Sequence[Row]) -> None:
    if min(row.seq_len for row in rows) > 0:
        set_length_axis(axes, rows)
    axes.margins(y=0.12)
    if rows[0].is_quality:
        set_score_axis(axes, "y", rows)
    else:
        set_cost_axis(axes, "y", [row.value for row in rows if row.value is not None], rows[0].unit)

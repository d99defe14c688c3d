"""The plots of a report: quality, quality against size, sweeps over lengths, training curves, attention."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..record import Record
from ..stats.evidence import Samples
from ..tables.aggregate import leaderboard_rows, main_rows
from ..tables.efficiency import SPREAD, is_detail
from ..tables.format import format_status, format_with_error
from ..tables.row import AXIS, REFERENCE_MODEL, Conditions, Row, grouped
from ..tables.tables import metric_label
from . import draw
from .curves import curve_plots
from .divergence import divergence_plots
from .draw import Plot, Style, Styles
from .efficiency import efficiency_plots, mark_crossovers
from .fidelity import LENGTHS_METRIC, fidelity_plots, lengths_plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DRAWN_AGAINST = {
    "size": {"parameters": "parameters", "state_bytes": "recurrent state [bytes]"},
    "entropy": {
        "attention_entropy": "entropy of attention [nats]",
        "attention_entropy_last_layer": "entropy in the last layer [nats]",
    },
}
"""Descriptive metrics that quality is drawn against, with their axis labels, by the kind of plot."""

_TITLES = {"size": "quality against size", "entropy": "quality against the entropy of attention"}

_LOG_UNITS = frozenset({"s", "ms", "us", "bytes", "tokens/s", "samples/s", "flops"})
_SLANT_FROM = 9


def make_plots(records: Iterable[Record], samples: Samples | None = None) -> list[Plot]:
    """Every plot for which the records have numbers, in a fixed order.

    Args:
        records: What was measured.
        samples: The records' predictions; without them, plots of predictions are left out.
    """
    records = list(records)
    rows = leaderboard_rows(records)
    styles = draw.model_styles(row.key for row in rows)
    with draw.plot_settings():
        return [
            *_quality_plots(rows, styles),
            *(plot for kind in DRAWN_AGAINST for plot in _plots_against(rows, styles, kind)),
            *_sweep_plots(rows, styles),
            *curve_plots(records, styles),
            *divergence_plots(records, styles),
            *lengths_plots(rows, styles),
            *(fidelity_plots(records, samples, styles) if samples else ()),
            *efficiency_plots(records, rows, styles),
        ]


def write_plots(records: Iterable[Record], folder: Path, samples: Samples | None = None) -> list[tuple[str, str]]:
    """Writes every plot as SVG and PNG into a folder that exists; returns title and SVG text of each."""
    return [(plot.title, draw.save(plot.figure, folder / plot.name)) for plot in make_plots(records, samples)]


def svg_plots(records: Iterable[Record]) -> list[tuple[str, str]]:
    """Title and SVG text of every plot."""
    return [(plot.title, draw.to_svg(plot.figure)) for plot in make_plots(records)]


def _quality_plots(rows: Sequence[Row], styles: Styles) -> Iterator[Plot]:
    for comparison, main in main_rows(rows).items():
        if any(row.value is not None for row in main):
            title = draw.titled(f"{comparison.task}: {_label(main)}", comparison)
            yield Plot("quality", comparison, title, _quality(main, styles, comparison))


def _quality(rows: Sequence[Row], styles: Styles, comparison: Conditions) -> Figure:
    """One line per model: a point with its standard error, or the reason why there is none."""
    lines = grouped(rows, lambda row: row.label)
    figure, (axes,) = draw.new_figure(7.2, 1.5 + 0.32 * len(lines))
    places = {label: place for place, label in enumerate(lines)}
    for row in rows:
        place = places[row.label]
        if row.value is not None:
            draw.tell(draw.point(axes, row.value, place, styles[row.label], xerr=row.stderr).lines[0], _told(row))
        elif not any(other.value is not None for other in lines[row.label]):
            where = axes.get_yaxis_transform()
            axes.text(0.01, place, format_status(row.status), transform=where, va="center", color="#777777", fontsize=9)
    reference = next((row.value for row in rows if row.model == REFERENCE_MODEL and row.value is not None), None)
    if reference is not None and len(lines) > 1:
        axes.axvline(reference, color="#000000", linewidth=0.9, linestyle=":", zorder=0)
    axes.set_yticks(range(len(lines)), [draw.plain(label) for label in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.margins(x=0.08)
    axes.set_xlabel(draw.plain(_label(rows, with_point=True)))
    return draw.finished(figure, draw.titled(comparison.task, comparison))


def _plots_against(rows: Sequence[Row], styles: Styles, kind: str) -> Iterator[Plot]:
    """Quality against the metrics of one kind of `DRAWN_AGAINST`, unless quality is itself a measure of attention."""
    labels = DRAWN_AGAINST[kind]
    known = {
        (row.comparison, row.key, row.metric): row.value
        for row in rows
        if row.metric in labels and not row.at and row.value is not None
    }
    for comparison, main in main_rows(rows).items():
        points = [row for row in main if row.value is not None and not row.metric.startswith("attention_")]
        found = {
            label: [(row, known[comparison, row.key, name]) for row in points if (comparison, row.key, name) in known]
            for name, label in labels.items()
        }
        panels = {label: placed for label, placed in found.items() if placed}
        if len(points) > 1 and panels:
            title = draw.titled(f"{comparison.task}: {_TITLES[kind]}", comparison)
            yield Plot(kind, comparison, title, _against_figure(points, panels, styles, title))


def _against_figure(
    points: Sequence[Row], panels: Mapping[str, Sequence[tuple[Row, float]]], styles: Styles, title: str
) -> Figure:
    """A panel for each metric that quality is drawn against, by its axis label."""
    figure, every_axes = draw.new_figure(2.4 + 3.6 * len(panels), max(3.6, 1.3 + 0.21 * len(points)), len(panels), True)
    handles: dict[str, Any] = {}
    for (label, placed), axes in zip(panels.items(), every_axes, strict=True):
        for row, x in placed:
            bars = draw.point(axes, x, row.value, styles[row.label], yerr=row.stderr)
            draw.tell(bars.lines[0], f"{_told(row)}; {label} {x:g}")
            handles.setdefault(row.label, bars)
        _set_scale(axes, [x for _, x in placed])
        axes.set_xlabel(label)
    every_axes[0].set_ylabel(draw.plain(_label(points, with_point=True)))
    return draw.finished(figure, title, handles)


def _set_scale(axes: Axes, sizes: Sequence[float]) -> None:
    """Logarithmic if sizes differ by more than a factor of three; a size of zero keeps its place at the left."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    positive = [size for size in sizes if size > 0]
    if not positive or max(positive) <= 3 * min(positive):
        axes.margins(x=0.15)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    elif len(positive) == len(sizes):
        axes.set_xscale("log")
    else:
        axes.set_xscale("symlog", linthresh=min(positive))


def _sweep_plots(rows: Sequence[Row], styles: Styles) -> Iterator[Plot]:
    ends = {(row.comparison, row.key, row.metric, row.at): row.value for row in rows if row.metric.endswith(SPREAD)}
    swept = (row for row in rows if row.has_seq_len and row.metric != LENGTHS_METRIC and not is_detail(row))
    sweeps = grouped(swept, lambda row: (row.comparison, row.metric, row.other_coordinates(AXIS)))
    for (comparison, metric, rest), points in sweeps.items():
        if len({row.at for row in points}) > 1 and any(row.value is not None for row in points):
            title = draw.titled(f"{comparison.task}: {metric}" + (f", {rest}" if rest else ""), comparison)
            yield Plot("sweep", comparison, title, _sweep(points, ends, styles, title), (metric, rest))


def _sweep(rows: Sequence[Row], ends: Mapping[tuple[Any, ...], float | None], styles: Styles, title: str) -> Figure:
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
            draw.tell(mark, f"{_told(row)} at {row.point}")
    _set_sweep_scales(axes, rows)
    mark_crossovers(axes, rows, styles)
    handles |= _mark_failures(axes, [row for row in rows if row.value is None], styles)
    axes.set_xlabel(AXIS)
    axes.set_ylabel(draw.plain(_label(rows)))
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


def _set_sweep_scales(axes: Axes, rows: Sequence[Row]) -> None:
    if min(row.seq_len for row in rows) > 0:
        draw.set_length_axis(axes, rows)
    if rows[0].unit in _LOG_UNITS and min(row.value for row in rows if row.value is not None) > 0:
        axes.set_yscale("log")
    axes.margins(y=0.12)
    if len({row.seq_len for row in rows}) >= _SLANT_FROM:
        axes.tick_params(axis="x", labelrotation=45)


def _label(rows: Sequence[Row], with_point: bool = False) -> str:
    row = next((row for row in rows if row.value is not None), rows[0])
    return metric_label(row) + (f", {row.point}" if with_point and row.at else "")


def _told(row: Row) -> str:
    """The text of a mark: model, metric, value and standard error."""
    unit = "" if row.unit in ("1", "bytes") else f" {row.unit}"
    return f"{row.label}: {row.metric} {format_with_error(row.value, row.stderr, row.unit)}{unit}"

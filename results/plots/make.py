"""The plots of a report: quality, quality against size, sweeps over lengths, training curves, attention."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..record import Record
from ..tables.aggregate import REFERENCE_MODEL, Conditions, Row, leaderboard_rows, main_rows
from ..tables.efficiency import is_detail
from ..tables.fidelity import Samples
from ..tables.format import format_measurement, format_status
from ..tables.tables import AXIS, metric_label, model_label
from .curves import curve_figures
from .divergence import divergence_figures
from .efficiency import efficiency_figures, mark_crossovers
from .fidelity import LENGTHS_METRIC, fidelity_figures, lengths_figures
from .style import Style, add_legend, add_title, model_styles, new_figure, plain, plot_settings, save, tell, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE_METRICS = {"parameters": "parameters", "state_bytes": "recurrent state [bytes]"}
"""Descriptive metrics that quality is drawn against, and their axis labels."""

_LOG_UNITS = frozenset({"s", "ms", "us", "bytes", "tokens/s", "samples/s", "flops"})

_SPREAD = ("_p20", "_p80")


@dataclass(frozen=True)
class Plot:
    """A finished plot: a name for its files, a title, and the figure."""

    name: str
    title: str
    figure: Figure


def make_plots(records: Iterable[Record], samples: Samples | None = None) -> list[Plot]:
    """Every plot that the records allow, in a fixed order; none for what nobody measured.

    Args:
        records: What was measured.
        samples: The records' predictions; without them what is drawn from predictions is left out.
    """
    records = list(records)
    rows = leaderboard_rows(records)
    styles = model_styles((row.model, row.variant) for row in rows)
    with plot_settings():
        plots = [*_quality_plots(rows, styles), *_size_plots(rows, styles), *_sweep_plots(rows, styles)]
        plots += [
            Plot(_name("curves", comparison), title, figure)
            for comparison, title, figure in curve_figures(records, styles)
        ]
        plots += [
            Plot(_name(kind, comparison), title, figure)
            for kind, comparison, title, figure in (
                *divergence_figures(records, styles),
                *lengths_figures(rows, styles),
                *(fidelity_figures(records, samples, styles) if samples else ()),
            )
        ]
        plots += [
            Plot(_name(kind, comparison), title, figure)
            for kind, comparison, title, figure in efficiency_figures(records, rows, styles)
        ]
    return plots


def write_plots(records: Iterable[Record], folder: Path, samples: Samples | None = None) -> list[tuple[str, str]]:
    """Writes every plot as SVG and PNG into a folder that exists; returns title and SVG text of each."""
    return [(plot.title, save(plot.figure, folder / plot.name)) for plot in make_plots(records, samples)]


def svg_plots(records: Iterable[Record]) -> list[tuple[str, str]]:
    """Title and SVG text of every plot."""
    return [(plot.title, to_svg(plot.figure)) for plot in make_plots(records)]


def _quality_plots(rows: Sequence[Row], styles: dict[str, Style]) -> Iterator[Plot]:
    for comparison, main in main_rows(rows).items():
        if any(row.value is not None for row in main):
            title = f"{comparison.task}: {_label(main)}"
            yield Plot(_name("quality", comparison), _title(title, comparison), _quality(main, styles, comparison))


def _quality(rows: Sequence[Row], styles: dict[str, Style], comparison: Conditions) -> Figure:
    """One line per model: a point with its standard error, or why there is none."""
    labels = list(dict.fromkeys(_row_label(row) for row in rows))
    figure, (axes,) = new_figure(7.2, 1.5 + 0.32 * len(labels))
    for row in rows:
        place, style = labels.index(_row_label(row)), styles[_row_label(row)]
        if row.value is not None:
            bars = axes.errorbar(
                row.value, place, xerr=row.stderr or None, fmt=style.marker, color=style.colour, capsize=3, markersize=7
            )
            tell(bars.lines[0], _told(row))
        elif not any(other.value is not None for other in rows if _row_label(other) == _row_label(row)):
            where = axes.get_yaxis_transform()
            axes.text(0.01, place, format_status(row.status), transform=where, va="center", color="#777777", fontsize=9)
    reference = next((row.value for row in rows if row.model == REFERENCE_MODEL and row.value is not None), None)
    if reference is not None and len(labels) > 1:
        axes.axvline(reference, color="#000000", linewidth=0.9, linestyle=":", zorder=0)
    axes.set_yticks(range(len(labels)), [plain(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.margins(x=0.08)
    axes.set_xlabel(plain(_label(rows, with_point=True)))
    add_title(figure, _title(comparison.task, comparison))
    return figure


def _size_plots(rows: Sequence[Row], styles: dict[str, Style]) -> Iterator[Plot]:
    sizes = _sizes(rows)
    for comparison, main in main_rows(rows).items():
        points = [row for row in main if row.value is not None]
        panels = [size for size in SIZE_METRICS if any((*_key(row), size) in sizes for row in points)]
        if len(points) > 1 and panels:
            figure = _size_figure(points, panels, sizes, styles)
            title = _title(f"{comparison.task}: quality against size", comparison)
            add_title(figure, title)
            yield Plot(_name("size", comparison), title, figure)


def _size_figure(
    points: Sequence[Row], panels: Sequence[str], sizes: dict[tuple[Any, ...], float], styles: dict[str, Style]
) -> Figure:
    figure, every_axes = new_figure(2.4 + 3.6 * len(panels), max(3.6, 1.3 + 0.21 * len(points)), len(panels), True)
    handles: dict[str, Any] = {}
    for size, axes in zip(panels, every_axes, strict=True):
        drawn = [row for row in points if (*_key(row), size) in sizes]
        for row in drawn:
            style, label = styles[_row_label(row)], _row_label(row)
            x, y = sizes[*_key(row), size], row.value
            bars = axes.errorbar(
                x, y or 0.0, yerr=row.stderr or None, fmt=style.marker, color=style.colour, capsize=3, markersize=7
            )
            tell(bars.lines[0], f"{_told(row)}; {size} {x:g}")
            handles.setdefault(plain(label), bars)
        _set_size_scale(axes, [sizes[*_key(row), size] for row in drawn])
        axes.set_xlabel(SIZE_METRICS[size])
    every_axes[0].set_ylabel(plain(_label(points, with_point=True)))
    add_legend(figure, handles)
    return figure


def _set_size_scale(axes: Axes, sizes: Sequence[float]) -> None:
    """Logarithmic where sizes differ by more than a factor of three; a size of zero keeps its place at the left."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    positive = [size for size in sizes if size > 0]
    if not positive or max(positive) <= 3 * min(positive):
        axes.margins(x=0.15)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        return
    if len(positive) == len(sizes):
        axes.set_xscale("log")
    else:
        axes.set_xscale("symlog", linthresh=min(positive))


def _sweep_plots(rows: Sequence[Row], styles: dict[str, Style]) -> Iterator[Plot]:
    ends = {(*_key(row), row.metric, row.at): row.value for row in rows if row.metric.endswith(_SPREAD)}
    sweeps: dict[tuple[Conditions, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        is_swept = isinstance(row.coordinates.get(AXIS), int | float)
        if is_swept and row.metric != LENGTHS_METRIC and not is_detail(row):
            rest = ", ".join(f"{key}={row.coordinates[key]}" for key in sorted(row.coordinates) if key != AXIS)
            sweeps[row.comparison, row.metric, rest].append(row)
    for (comparison, metric, rest), points in sweeps.items():
        if len({row.at for row in points}) > 1 and any(row.value is not None for row in points):
            title = _title(f"{comparison.task}: {metric}" + (f", {rest}" if rest else ""), comparison)
            name = _name("sweep", comparison, metric, rest)
            yield Plot(name, title, _sweep(points, ends, styles, title))


def _sweep(
    rows: Sequence[Row], ends: Mapping[tuple[Any, ...], float | None], styles: dict[str, Style], title: str
) -> Figure:
    """A line per model over lengths, within the spread of its samples; a cross in the band at the top has no value."""
    labels = list(dict.fromkeys(_row_label(row) for row in rows))
    figure, (axes,) = new_figure(7.2, max(3.8, 1.3 + 0.21 * len(labels)))
    handles: dict[str, Any] = {}
    for label in labels:
        measured = [row for row in rows if _row_label(row) == label and row.value is not None]
        style = styles[label]
        handles[plain(label)] = axes.errorbar(
            [_length(row) for row in measured],
            [row.value or 0.0 for row in measured],
            yerr=[row.stderr or 0.0 for row in measured],
            color=style.colour,
            marker=style.marker,
            linestyle=style.line,
            capsize=2,
            markersize=5,
            linewidth=1.5,
        )
        _shade_spread(axes, measured, ends, style)
        for row in measured:
            (mark,) = axes.plot(_length(row), row.value or 0.0, color=style.colour, marker=style.marker, markersize=5)
            tell(mark, f"{_told(row)} at {row.at.replace(';', ', ')}")
    _set_sweep_scales(axes, rows)
    mark_crossovers(axes, rows, styles)
    handles |= _mark_failures(axes, [row for row in rows if row.value is None], styles)
    axes.set_xlabel(AXIS)
    axes.set_ylabel(plain(_label(rows)))
    add_title(figure, title)
    add_legend(figure, handles)
    return figure


def _shade_spread(axes: Axes, rows: Sequence[Row], ends: Mapping[tuple[Any, ...], float | None], style: Style) -> None:
    """Shades from the 20th to the 80th percentile of a line's samples, as far as they are known."""
    spreads = [
        (_length(row), *(ends.get((*_key(row), f"{row.metric}{end}", row.at)) for end in _SPREAD)) for row in rows
    ]
    known = [(length, low, high) for length, low, high in spreads if low is not None and high is not None]
    if known:
        lengths, lows, highs = zip(*known, strict=True)
        axes.fill_between(lengths, lows, highs, color=style.colour, alpha=0.15, linewidth=0)


def _mark_failures(axes: Axes, failed: Sequence[Row], styles: dict[str, Style]) -> dict[str, Any]:
    """Crosses in a grey band above the values, one line per model so that none hides another; the legend's entry."""
    if not failed:
        return {}
    from matplotlib.patches import Rectangle

    labels = list(dict.fromkeys(_row_label(row) for row in failed))
    band = min(0.45, 0.04 + 0.04 * len(labels))
    low, high = axes.get_ylim()
    is_log = axes.get_yscale() == "log"
    axes.set_ylim(
        low, high * (high / low) ** (band / (1 - band)) if is_log else high + (high - low) * band / (1 - band)
    )
    axes.add_patch(Rectangle((0, 1 - band), 1, band, transform=axes.transAxes, color="#eeeeee", zorder=0))
    look: dict[str, Any] = {"marker": "x", "linestyle": "none", "markersize": 7, "markeredgewidth": 2}
    for i, label in enumerate(labels):
        lengths = [_length(row) for row in failed if _row_label(row) == label]
        height = 1 - band * (i + 0.5) / len(labels)
        where = axes.get_xaxis_transform()
        (crosses,) = axes.plot(lengths, [height] * len(lengths), color=styles[label].colour, transform=where, **look)
        tell(crosses, f"{label}: no value at {', '.join(f'{AXIS}={length:g}' for length in lengths)}")
    statuses = sorted({format_status(row.status) for row in failed})
    (entry,) = axes.plot([], [], color="#777777", **look)
    return {f"no value: {', '.join(statuses)}": entry}


def _set_sweep_scales(axes: Axes, rows: Sequence[Row]) -> None:
    from matplotlib.ticker import NullFormatter

    lengths = sorted({_length(row) for row in rows})
    values = [row.value for row in rows if row.value is not None]
    if lengths[0] > 0:
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [f"{length:g}" for length in lengths])
        axes.xaxis.set_minor_formatter(NullFormatter())
    if rows[0].unit in _LOG_UNITS and min(values) > 0:
        axes.set_yscale("log")
    axes.margins(y=0.12)
    if len(lengths) > 8:
        axes.tick_params(axis="x", labelrotation=45)


def _sizes(rows: Sequence[Row]) -> dict[tuple[Any, ...], float]:
    return {
        (*_key(r), r.metric): r.value for r in rows if r.metric in SIZE_METRICS and not r.at and r.value is not None
    }


def _key(row: Row) -> tuple[Any, ...]:
    return row.comparison, row.model, row.variant


def _row_label(row: Row) -> str:
    return model_label(row.model, row.variant)


def _length(row: Row) -> float:
    return float(row.coordinates[AXIS] or 0)


def _label(rows: Sequence[Row], with_point: bool = False) -> str:
    row = next((row for row in rows if row.value is not None), rows[0])
    return metric_label(row) + (f", {row.at.replace(';', ', ')}" if with_point and row.at else "")


def _told(row: Row) -> str:
    """What a mark tells: model, metric, value and standard error."""
    text, stderr = format_measurement(row.value, row.stderr, row.unit)
    unit = "" if row.unit in ("1", "bytes") else f" {row.unit}"
    return f"{_row_label(row)}: {row.metric} {text}{f' ± {stderr}' if stderr else ''}{unit}"


def _title(text: str, comparison: Conditions) -> str:
    partial = "" if comparison.limit is None else f", first {comparison.limit} rows"
    return f"{text} ({comparison.backbone}, {comparison.recipe}, {comparison.scale}{partial})"


def _name(kind: str, comparison: Conditions, *more: str) -> str:
    limit = "" if comparison.limit is None else f"limit{comparison.limit}"
    parts = (kind, comparison.task, *more, comparison.backbone, comparison.recipe, comparison.scale, limit)
    return re.sub(r"[^A-Za-z0-9_.]+", "-", "-".join(filter(None, parts))).strip("-.")

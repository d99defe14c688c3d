"""The plots of a report: quality, quality against size, sweeps over lengths, and training curves."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .aggregate import REFERENCE_MODEL, Comparison, Row, leaderboard_rows
from .format import format_arrow, format_status
from .plot_curves import curve_figures
from .plot_style import Style, add_legend, model_styles, new_figure, plain, plot_settings, save, to_svg
from .record import Record
from .tables import AXIS, model_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE_METRICS = {"parameters": "parameters", "state_bytes": "recurrent state [bytes]"}
"""Descriptive metrics that quality is drawn against, and their axis labels."""

_LOG_UNITS = frozenset({"s", "ms", "us", "bytes", "tokens/s", "samples/s", "flops"})


@dataclass(frozen=True)
class Plot:
    """A finished plot: a name for its files, a title, and the figure."""

    name: str
    title: str
    figure: Figure


def make_plots(records: Iterable[Record]) -> list[Plot]:
    """Every plot that the records allow, in a fixed order; none for what nobody measured."""
    records = list(records)
    rows = leaderboard_rows(records)
    styles = model_styles((row.model, row.variant) for row in rows)
    with plot_settings():
        plots = [*_quality_plots(rows, styles), *_size_plots(rows, styles), *_sweep_plots(rows, styles)]
        plots += [
            Plot(_name("curves", comparison), title, figure)
            for comparison, title, figure in curve_figures(records, styles)
        ]
    return plots


def write_plots(records: Iterable[Record], folder: Path) -> list[Path]:
    """Writes every plot as SVG and PNG into a folder that exists; returns the files."""
    return [path for plot in make_plots(records) for path in save(plot.figure, folder / plot.name)]


def svg_plots(records: Iterable[Record]) -> list[tuple[str, str]]:
    """Title and SVG text of every plot."""
    return [(plot.title, to_svg(plot.figure)) for plot in make_plots(records)]


def _quality_plots(rows: Sequence[Row], styles: dict[str, Style]) -> Iterator[Plot]:
    for comparison, main in _main_rows(rows).items():
        if any(row.value is not None for row in main):
            title = f"{comparison.task}: {_label(main)}"
            yield Plot(_name("quality", comparison), _title(title, comparison), _quality(main, styles, comparison))


def _quality(rows: Sequence[Row], styles: dict[str, Style], comparison: Comparison) -> Figure:
    """One line per model: a point with its standard error, or why there is none."""
    labels = list(dict.fromkeys(_row_label(row) for row in rows))
    figure, (axes,) = new_figure(7.2, 1.5 + 0.32 * len(labels))
    for row in rows:
        place, style = labels.index(_row_label(row)), styles[_row_label(row)]
        if row.value is not None:
            axes.errorbar(
                row.value, place, xerr=row.stderr or None, fmt=style.marker, color=style.colour, capsize=3, markersize=7
            )
        elif not any(other.value is not None for other in rows if _row_label(other) == _row_label(row)):
            where = axes.get_yaxis_transform()
            axes.text(0.01, place, format_status(row.status), transform=where, va="center", color="#777777", fontsize=9)
    reference = next((row.value for row in rows if row.model == REFERENCE_MODEL and row.value is not None), None)
    if reference is not None and len(labels) > 1:
        axes.axvline(reference, color="#000000", linewidth=0.9, linestyle=":", zorder=0)
    axes.set_yticks(range(len(labels)), [plain(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.margins(x=0.08)
    axes.set_xlabel(plain(_label(rows)))
    axes.set_title(plain(_title(comparison.task, comparison)), loc="left")
    return figure


def _size_plots(rows: Sequence[Row], styles: dict[str, Style]) -> Iterator[Plot]:
    sizes = _sizes(rows)
    for comparison, main in _main_rows(rows).items():
        points = [row for row in main if row.value is not None]
        panels = [size for size in SIZE_METRICS if any((*_key(row), size) in sizes for row in points)]
        if len(points) > 1 and panels:
            figure = _size_figure(points, panels, sizes, styles)
            title = _title(f"{comparison.task}: quality against size", comparison)
            figure.suptitle(plain(title), fontsize=11, x=0.01, ha="left")
            yield Plot(_name("size", comparison), title, figure)


def _size_figure(
    points: Sequence[Row], panels: Sequence[str], sizes: dict[tuple[Any, ...], float], styles: dict[str, Style]
) -> Figure:
    figure, every_axes = new_figure(2.4 + 3.6 * len(panels), max(3.6, 1.0 + 0.2 * len(points)), len(panels), True)
    handles: dict[str, Any] = {}
    for size, axes in zip(panels, every_axes, strict=True):
        drawn = [row for row in points if (*_key(row), size) in sizes]
        for row in drawn:
            style, label = styles[_row_label(row)], _row_label(row)
            x, y = sizes[*_key(row), size], row.value
            handles.setdefault(
                plain(label),
                axes.errorbar(
                    x, y or 0.0, yerr=row.stderr or None, fmt=style.marker, color=style.colour, capsize=3, markersize=7
                ),
            )
        _set_size_scale(axes, [sizes[*_key(row), size] for row in drawn])
        axes.set_xlabel(SIZE_METRICS[size])
    every_axes[0].set_ylabel(plain(_label(points)))
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
    sweeps: dict[tuple[Comparison, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if isinstance(row.coordinates.get(AXIS), int | float):
            rest = ", ".join(f"{key}={row.coordinates[key]}" for key in sorted(row.coordinates) if key != AXIS)
            sweeps[row.comparison, row.metric, rest].append(row)
    for (comparison, metric, rest), points in sweeps.items():
        if any(row.value is not None for row in points):
            title = _title(f"{comparison.task}: {metric}" + (f", {rest}" if rest else ""), comparison)
            name = _name("sweep", comparison, metric, rest)
            yield Plot(name, title, _sweep(points, styles, title))


def _sweep(rows: Sequence[Row], styles: dict[str, Style], title: str) -> Figure:
    """A line per model over lengths; what ran out of memory is a cross at the top edge."""
    labels = list(dict.fromkeys(_row_label(row) for row in rows))
    figure, (axes,) = new_figure(7.2, max(3.8, 0.9 + 0.2 * len(labels)))
    handles: dict[str, Any] = {}
    crosses: dict[str, Any] = {}
    for label in labels:
        own = [row for row in rows if _row_label(row) == label]
        measured = [row for row in own if row.value is not None]
        style = styles[label]
        xs, ys = [float(str(row.coordinates[AXIS])) for row in measured], [row.value or 0.0 for row in measured]
        errors = [row.stderr or 0.0 for row in measured]
        look: dict[str, Any] = {"color": style.colour, "marker": style.marker, "linestyle": style.line}
        handles[plain(label)] = axes.errorbar(xs, ys, yerr=errors, capsize=2, markersize=5, linewidth=1.5, **look)
        crosses |= _mark_failures(axes, own, style, labels.index(label))
    _set_sweep_scales(axes, rows)
    axes.set_xlabel(AXIS)
    axes.set_ylabel(plain(_label(rows)))
    axes.set_title(plain(title), loc="left")
    add_legend(figure, handles | crosses)
    return figure


def _mark_failures(axes: Axes, rows: Sequence[Row], style: Style, place: int) -> dict[str, Any]:
    """Crosses above the frame, one height per model so that none hides another; returns the legend's entry."""
    failed = [float(str(row.coordinates[AXIS])) for row in rows if row.value is None]
    if not failed:
        return {}
    axes.plot(
        failed,
        [0.985 - 0.035 * (place % 8)] * len(failed),
        marker="x",
        linestyle="none",
        color=style.colour,
        markersize=7,
        markeredgewidth=2,
        transform=axes.get_xaxis_transform(),
        clip_on=False,
    )
    from matplotlib.lines import Line2D

    entry = Line2D([], [], marker="x", linestyle="none", color="#777777", markeredgewidth=2, markersize=7)
    statuses = sorted({format_status(row.status) for row in rows if row.value is None})
    return {f"no value: {', '.join(statuses)}": entry}


def _set_sweep_scales(axes: Axes, rows: Sequence[Row]) -> None:
    from matplotlib.ticker import NullFormatter

    lengths = sorted({float(str(row.coordinates[AXIS])) for row in rows})
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


def _main_rows(rows: Sequence[Row]) -> dict[Comparison, list[Row]]:
    found: dict[Comparison, list[Row]] = defaultdict(list)
    for row in rows:
        if row.is_main and not row.at:
            found[row.comparison].append(row)
    return found


def _sizes(rows: Sequence[Row]) -> dict[tuple[Any, ...], float]:
    return {
        (*_key(r), r.metric): r.value for r in rows if r.metric in SIZE_METRICS and not r.at and r.value is not None
    }


def _key(row: Row) -> tuple[Any, ...]:
    return row.comparison, row.model, row.variant


def _row_label(row: Row) -> str:
    return model_label(row.model, row.variant)


def _label(rows: Sequence[Row]) -> str:
    row = next((row for row in rows if row.value is not None), rows[0])
    unit = "" if row.unit in ("", "1") or row.metric.endswith(f"_{row.unit}") else f" [{row.unit}]"
    return f"{row.metric}{unit}{format_arrow(row.higher_is_better)}"


def _title(text: str, comparison: Comparison) -> str:
    partial = "" if comparison.limit is None else f", first {comparison.limit} rows"
    return f"{text} ({comparison.backbone}, {comparison.recipe}, {comparison.scale}{partial})"


def _name(kind: str, comparison: Comparison, *more: str) -> str:
    limit = "" if comparison.limit is None else f"limit{comparison.limit}"
    parts = (kind, comparison.task, *more, comparison.backbone, comparison.recipe, comparison.scale, limit)
    return re.sub(r"[^A-Za-z0-9_.]+", "-", "-".join(filter(None, parts))).strip("-.")

"""Plots of scores: each task's main metric by model, and against descriptions of the model such as its size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from ..stats.budget import SECONDS, TOKENS
from ..stats.chance import is_signed
from ..tables.aggregate import main_budgets, main_rows
from ..tables.format import format_status, format_with_error
from ..tables.row import REFERENCE_MODEL, Conditions, ModelKey, Row, grouped
from . import draw
from .draw import Plot, Styles
from .scales import set_cost_axis, set_plain_ticks, set_score_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TOTALS = {"training tokens": TOKENS, "training time": SECONDS}
"""What a budget sums up over its stages, by names that no metric has."""

DRAWN_AGAINST = {
    "size": {
        "parameters": "parameters",
        "state_bytes": "recurrent state",
        "training tokens": "training tokens",
        "training time": "training time [s]\n(machine not checked to be quiet)",
    },
    "entropy": {
        "attention_entropy": "entropy of attention [nats]",
        "attention_entropy_last_layer": "entropy in the last layer [nats]",
    },
}
"""Descriptive metrics and budgets that quality is drawn against, with their axis labels, by the kind of plot."""

_TITLES = {"size": "quality against size and budget", "entropy": "quality against the entropy of attention"}
_WIDE_FROM = 20.0
"""Ratio of the largest to the smallest score from which their axis is logarithmic."""
_MOST_IN_A_ROW = 3

_Placed: TypeAlias = tuple[Row, float, float | None]
"""A score, and where it stands: what it is drawn against, with the standard error over seeds."""


def quality_plots(rows: Sequence[Row], styles: Styles) -> Iterator[Plot]:
    """The main metric of each task; left out if it is a time or a size that a sweep shows in full."""
    swept = {row.comparison for row in rows if row.has_seq_len}
    for comparison, main in main_rows(rows).items():
        measured = [row for row in main if row.value is not None]
        if measured and (measured[0].is_quality or comparison not in swept):
            title = draw.titled(f"{comparison.task}: {draw.labelled(main)}", comparison)
            yield Plot("quality", comparison, title, _by_model(main, styles, comparison))


def _by_model(rows: Sequence[Row], styles: Styles, comparison: Conditions) -> Figure:
    """One line per model: a point with its standard error, or the reason why there is none."""
    lines = grouped(rows, lambda row: row.label)
    figure, (axes,) = draw.new_figure(7.2, 1.5 + 0.32 * len(lines))
    places = {label: place for place, label in enumerate(lines)}
    for row in rows:
        place = places[row.label]
        if row.value is not None and math.isfinite(row.value):
            draw.tell(draw.point(axes, row.value, place, styles[row.label], xerr=row.stderr).lines[0], draw.told(row))
        elif row.value is not None or not any(other.value is not None for other in lines[row.label]):
            where = axes.get_yaxis_transform()
            text = format_status(row.status) if row.value is None else f"{row.value:g}"
            axes.text(0.01, place, text, transform=where, va="center", color="#777777", fontsize=9)
    reference = next((row.value for row in rows if row.model == REFERENCE_MODEL and row.value is not None), math.nan)
    if math.isfinite(reference) and len(lines) > 1:
        axes.axvline(reference, color="#000000", linewidth=0.9, linestyle=":", zorder=0)
    axes.set_yticks(range(len(lines)), [draw.plain(label) for label in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.margins(x=0.08)
    _set_value_axis(axes, rows)
    axes.set_xlabel(draw.plain(draw.labelled(rows, with_point=True)))
    return draw.finished(figure, draw.titled(comparison.task, comparison))


def _set_value_axis(axes: Axes, rows: Sequence[Row]) -> None:
    values = [row.value for row in rows if row.value is not None and math.isfinite(row.value)]
    if not values:
        return
    if not rows[0].is_quality and any(row.unit for row in rows):
        set_cost_axis(axes, "x", values, next(row.unit for row in rows if row.unit))
    elif min(values) > 0 and max(values) > _WIDE_FROM * min(values) and not any(is_signed(row.metric) for row in rows):
        axes.set_xscale("log")
        set_plain_ticks(axes.xaxis)
    else:
        set_score_axis(axes, "x", rows)


def plots_against(rows: Sequence[Row], styles: Styles, kind: str) -> Iterator[Plot]:
    """Scores against one kind of `DRAWN_AGAINST`; not costs, and not measures of attention itself.

    What is the same for all models has no panel; the title says so.
    """
    labels = DRAWN_AGAINST[kind]
    known = {
        (row.comparison, row.key, row.metric): (row.value, row.stderr)
        for row in rows
        if row.metric in labels and not row.at and row.value is not None
    } | _spent(rows, labels)
    for comparison, main in main_rows(rows).items():
        scores = (row for row in main if row.value is not None and math.isfinite(row.value) and row.is_quality)
        points = [row for row in scores if not row.metric.startswith("attention_")]
        found = {
            name: [(row, *known[key]) for row in points if (key := (comparison, row.key, name)) in known]
            for name in labels
        }
        panels = {name: placed for name, placed in found.items() if len({x for _, x, _ in placed}) > 1}
        same = [_first_line(labels[name]) for name, placed in found.items() if len(placed) > 1 and name not in panels]
        if panels:
            told = _TITLES[kind] + (f"; the same for all: {', '.join(same)}" if same else "")
            title = draw.titled(f"{comparison.task}: {told}", comparison)
            yield Plot(kind, comparison, title, _against_figure(points, panels, styles, (title, labels)))


def _spent(
    rows: Sequence[Row], names: Iterable[str]
) -> dict[tuple[Conditions, ModelKey, str], tuple[float, float | None]]:
    """The totals of budgets that are among `names`, with their standard errors."""
    budgets, main = main_budgets(rows), main_rows(rows)
    return {
        (where, row.key, name): amount
        for where, budget in budgets.items()
        for row in main[where]
        for name, total in _TOTALS.items()
        if name in names and (amount := budget.amount(row.label, total)) is not None
    }


def _against_figure(
    points: Sequence[Row],
    panels: Mapping[str, Sequence[_Placed]],
    styles: Styles,
    words: tuple[str, Mapping[str, str]],
) -> Figure:
    """A panel for each thing that quality is drawn against; `words` are the title and the axis labels."""
    title, labels = words
    columns = len(panels) if len(panels) <= _MOST_IN_A_ROW else -(-len(panels) // 2)
    height = max(3.6, 1.3 + 0.21 * len(points))
    lines = -(-len(panels) // columns)
    figure, grid = draw.new_grid(lines, columns, (2.4 + 3.6 * columns, height * lines), share_y=True)
    handles: dict[str, Any] = {}
    for (name, placed), axes in zip(panels.items(), grid.flat, strict=True):
        for row, x, error in placed:
            bars = draw.point(axes, x, row.value, styles[row.label], xerr=error, yerr=row.stderr)
            draw.tell(bars.lines[0], f"{draw.told(row)}; {_first_line(labels[name])} {format_with_error(x, error)}")
            handles.setdefault(row.label, bars)
        axes.margins(x=0.15)
        _set_size_axis(axes, [x for _, x, _ in placed], "bytes" if name.endswith("_bytes") else "1")
        axes.set_xlabel(labels[name])
    set_score_axis(grid[0, 0], "y", points)
    for axes in grid[:, 0]:
        axes.set_ylabel(draw.plain(draw.labelled(points, with_point=True)))
    return draw.finished(figure, title, handles)


def _first_line(label: str) -> str:
    return label.partition("\n")[0]


def _set_size_axis(axes: Axes, sizes: Sequence[float], unit: str) -> None:
    """As `set_cost_axis`; a size of zero keeps its place at the left of the others."""
    positive = [size for size in sizes if size > 0]
    if positive and len(positive) < len(sizes):
        axes.set_xscale("symlog", linthresh=min(positive))
    else:
        set_cost_axis(axes, "x", sizes, unit)

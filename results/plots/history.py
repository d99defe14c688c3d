"""The plot of a history: a panel for each metric of a task, a line for each model and device, over commits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from ..compare.history import HistoryLine, MetricHistory
from ..compare.verdicts import Finding
from ..tables.row import format_at, grouped
from . import draw
from .scales import keep_possible, set_cost_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 24
"""Most panels of a plot; the notes of the page count the others."""

MOST_COMMITS = 6
"""Most labels of commits along a panel."""

_COLUMNS = 2
_VERDICTS = {"regressed": "#b3261e", "improved": "#0b6e4f"}
_RING: dict[str, Any] = {
    "marker": "o",
    "markersize": 12,
    "markerfacecolor": "none",
    "markeredgewidth": 1.6,
    "zorder": 5,
}


def panels_of(lines: Sequence[HistoryLine]) -> dict[str, list[HistoryLine]]:
    """The lines by the title of their panel: task, metric and point, backbone, recipe and scale."""
    return grouped(lines, _title)


def history_figure(found: MetricHistory, lines: Sequence[HistoryLine]) -> Figure:
    """The figure of some lines; real changes are ringed, with their size in percent."""
    panels = list(panels_of(lines).items())[:MOST_PANELS]
    labels = list(dict.fromkeys(_label(line, lines) for line in lines))
    styles = draw.model_styles((label, 0) for label in labels)
    rows = max(1, -(-len(panels) // _COLUMNS))
    columns = min(_COLUMNS, max(1, len(panels)))
    figure, grid = draw.new_grid(rows, columns, (2.6 + 4.6 * columns, 0.6 + 3.3 * rows))
    handles: dict[str, Any] = {}
    for axes, panel in zip_longest(grid.flat, panels):
        if panel is None:
            axes.set_axis_off()
            continue
        title, own = panel
        for line in own:
            label = _label(line, lines)
            handles[label] = _draw(axes, line, found, styles[label])
        _label_changes(axes, own, found)
        _set_axes(axes, own, found)
        axes.set_title(draw.plain(title), fontsize=9, loc="left")
    ordered = {label: handles[label] for label in styles if label in handles}
    return draw.finished(
        figure, "Metrics over commits; rings are changes that are significant and beyond their margin", ordered
    )


def _title(line: HistoryLine) -> str:
    cell, at = line.cell, format_at(line.metric.at).replace(";", ", ")
    limit = "" if cell.limit is None else f", first {cell.limit} rows"
    metric = f"{cell.task}: {line.metric.name}" + (f" at {at}" if at else "")
    return f"{metric}\n{cell.backbone}, {cell.recipe}, {cell.scale}{limit}"


def _label(line: HistoryLine, lines: Sequence[HistoryLine]) -> str:
    """The model, with the device if there are several; lines of other settings or data share a colour."""
    several = len({other.device for other in lines}) > 1
    return f"{line.cell.model}\n({line.device})" if several else line.cell.model


def _places(found: MetricHistory) -> list[int]:
    """For each version the index of its commit: runs of one commit stand above each other."""
    seen: dict[str, int] = {}
    return [seen.setdefault(version.label, len(seen)) for version in found.versions]


def _draw(axes: Axes, line: HistoryLine, found: MetricHistory, style: draw.Style) -> Any:
    places = _places(found)
    known = [(places[point.place], point) for point in line.points if point.value is not None]
    xs, values = [x for x, _ in known], [point.value or 0.0 for _, point in known]
    errors = [point.stderr or 0.0 for _, point in known]
    handle = axes.errorbar(xs, values, yerr=errors, capsize=2, markersize=5, **style.look)
    for x, point in known:
        version, unit = found.versions[point.place], "" if line.metric.unit == "1" else f" {line.metric.unit}"
        (mark,) = axes.plot(x, point.value or 0.0, color=style.colour, marker=style.marker, markersize=5)
        draw.tell(mark, f"{line.cell.model}: {point.value:.6g}{unit} at {version.label}, {line.device}")
        if point.change is not None and point.is_real:
            axes.plot(x, point.value or 0.0, markeredgecolor=_VERDICTS[point.change.verdict], **_RING)
    return handle


def _label_changes(axes: Axes, lines: Sequence[HistoryLine], found: MetricHistory) -> None:
    """The size of the real changes at each commit, once for all models: worse above the points, better below."""
    places = _places(found)
    real = [
        (places[point.place], point.change.verdict, point.value, point.change)
        for line in lines
        for point in line.changes
        if point.change is not None and point.change.change is not None and point.value is not None
    ]
    for (x, verdict), own in grouped(real, lambda each: each[:2]).items():
        is_worse = verdict == "regressed"
        unit = own[0][3].percent_unit  # a panel is of one metric
        sizes = [f"{size:.2g}" for size in sorted(_size(change) for *_, change in own)]
        text = sizes[0] if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
        y = (max if is_worse else min)(value for _, _, value, _ in own)
        look: dict[str, Any] = {"textcoords": "offset points", "color": _VERDICTS[verdict], "fontsize": 8}
        where: dict[str, Any] = {"xytext": (0, 10 if is_worse else -10), "va": "bottom" if is_worse else "top"}
        axes.annotate(f"{text}{unit} {'worse' if is_worse else 'better'}", (x, y), ha="center", **look, **where)


def _size(finding: Finding) -> float:
    return abs(finding.percent(finding.change.worse)) if finding.change is not None else 0.0


def _set_axes(axes: Axes, lines: Sequence[HistoryLine], found: MetricHistory) -> None:
    metric = lines[0].metric
    axes.margins(y=0.25)
    if metric.unit in ("ms", "s", "us", "bytes", "tokens/s"):
        values = [point.value for line in lines for point in line.points if point.value is not None]
        set_cost_axis(axes, "y", values, metric.unit)
    elif all((point.value or 0.0) >= 0 for line in lines for point in line.points):
        keep_possible(axes, "y")
    labels = list(dict.fromkeys(version.label for version in found.versions))
    every = -(-len(labels) // MOST_COMMITS)
    shown = [label.replace(" ", "\n") if (len(labels) - 1 - i) % every == 0 else "" for i, label in enumerate(labels)]
    axes.set_xticks(range(len(labels)), [draw.plain(label) for label in shown], fontsize=8)
    axes.set_xlim(-0.5, len(labels) - 0.5)
    unit = "" if metric.unit in ("1", "bytes") else f" [{metric.unit}]"
    better = "" if metric.higher_is_better is None else " ↑" if metric.higher_is_better else " ↓"
    axes.set_ylabel(draw.plain(metric.name + unit + better))

"""The picture that a report opens with: scores against cost, both beside softmax's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..stats.chance import chance_level
from ..tables.aggregate import main_rows
from ..tables.row import AXIS, REFERENCE_MODEL, Conditions, Row, grouped
from . import draw
from .draw import Plot, Styles
from .efficiency import Costs, longest_costs, noise_note
from .scales import set_factor_axis, set_score_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 3
"""Most tasks in the picture."""

COSTS = {
    "prefill_ms": "time of prefill",
    "train_ms": "time of a training step",
    "decode_ms": "time of a decoded token",
    "peak_allocated_bytes": "peak memory of prefill",
}
"""Costs in the order in which they are preferred, and their names on the axis."""

_OWN_COST = "state_bytes"
"""A cost that records of language models state themselves, for runs that measured no other."""

_LEVEL: dict[str, Any] = {"color": "#000000", "linewidth": 0.9, "linestyle": ":"}
_CHANCE: dict[str, Any] = {"color": "#888888", "linewidth": 0.9, "linestyle": "--", "zorder": 0}


@dataclass(frozen=True)
class _Panel:
    """One task's scores, each with the cost of its model as a factor of softmax's.

    Attributes:
        comparison: Where the scores were measured.
        scores: Rows of the main metric.
        factors: For each row the factor and its standard error.
        label: What the cost is, and where it was measured.
    """

    comparison: Conditions
    scores: tuple[Row, ...]
    factors: tuple[tuple[float, float], ...]
    label: str


def overview_plots(rows: Sequence[Row], styles: Styles) -> Iterator[Plot]:
    """The picture, if softmax and another model have a score and a cost; tasks with the most models come first."""
    found = [panel for where, main in main_rows(rows).items() if (panel := _panel(where, main, rows)) is not None]
    found.sort(key=lambda panel: -len(panel.scores))
    if found:
        title = "Quality against cost, softmax marked; up and to the left is better"
        yield Plot("overview", found[0].comparison, title, _figure(found[:MOST_PANELS], styles, title))


def _panel(where: Conditions, main: Sequence[Row], rows: Sequence[Row]) -> _Panel | None:
    scores = [row for row in main if row.value is not None and math.isfinite(row.value) and row.is_quality]
    if any(row.metric.startswith("attention_") or row.higher_is_better is None for row in scores):
        return None
    for costs, label in (*_measured(where, rows), *_stated(where, rows)):
        softmax = costs.get(REFERENCE_MODEL)
        joined = [(row, costs[row.model]) for row in scores if row.model in costs and row.variant == 0]
        if softmax and any(row.model == REFERENCE_MODEL for row, _ in joined) and len(joined) > 1:
            label += noise_note([cost for _, cost in joined])
            factors = tuple(_factor(cost, softmax) for _, cost in joined)
            return _Panel(where, tuple(row for row, _ in joined), factors, label)
    return None


def _measured(where: Conditions, rows: Sequence[Row]) -> Iterator[tuple[Costs, str]]:
    """Costs of the same backbone by model, best first: of the same scale if there are any."""
    swept = [row for row in rows if row.comparison.backbone == where.backbone]
    for metric, name in COSTS.items():
        places = grouped(swept, lambda row: (row.comparison.scale != where.scale, row.comparison.scale))
        for (_, scale), members in sorted(places.items()):
            if costs := longest_costs(members, metric):
                at = next(iter(costs.values()))
                yield costs, f"{name} at {AXIS}={at.seq_len:g}, × softmax's\n({where.backbone} at scale {scale})"


def _stated(where: Conditions, rows: Sequence[Row]) -> Iterator[tuple[Costs, str]]:
    own = (row for row in rows if row.comparison == where and row.metric == _OWN_COST and not row.at and row.value)
    yield {row.model: row for row in own if row.variant == 0}, "state kept while decoding, × softmax's"


def _factor(cost: Row, softmax: Row) -> tuple[float, float]:
    """A cost over softmax's and its standard error; costs are above zero."""
    assert cost.value is not None
    assert softmax.value is not None
    if cost is softmax:
        return 1.0, 0.0
    factor = cost.value / softmax.value
    return factor, factor * math.hypot((cost.stderr or 0.0) / cost.value, (softmax.stderr or 0.0) / softmax.value)


def _figure(panels: Sequence[_Panel], styles: Styles, title: str) -> Figure:
    from matplotlib.lines import Line2D

    figure, every_axes = draw.new_figure(2.2 + 3.7 * len(panels), 4.0, len(panels))
    handles: dict[str, Any] = {}
    tasks = [panel.comparison.task for panel in panels]
    for panel, axes in zip(panels, every_axes, strict=True):
        handles |= _draw(axes, panel, styles)
        where = panel.comparison
        more = f" ({where.backbone}, {where.recipe})" if tasks.count(where.task) > 1 else ""
        axes.set_title(draw.plain(where.task + more), fontsize=10, loc="left")
    ordered = {label: handles[label] for label in styles if label in handles}
    return draw.finished(figure, title, ordered | {"softmax's score and cost": Line2D([], [], **_LEVEL)})


def _draw(axes: Axes, panel: _Panel, styles: Styles) -> dict[str, Any]:
    handles: dict[str, Any] = {}
    for row, (factor, error) in zip(panel.scores, panel.factors, strict=True):
        handles[row.label] = draw.point(axes, factor, row.value, styles[row.label], xerr=error, yerr=row.stderr)
        draw.tell(handles[row.label].lines[0], f"{draw.told(row)}; cost {factor:.3g} × softmax's")
        if row.model == REFERENCE_MODEL:
            axes.axhline(row.value or 0.0, **_LEVEL)
            axes.axvline(1.0, **_LEVEL)
    level = chance_level(panel.scores[0].metric, (r for row in panel.scores for r in row.evidence.records))
    if level is not None and not panel.scores[0].metric.startswith("perplexity"):
        axes.axhline(level.value, **_CHANCE)
        place = (0.99, level.value)
        look: dict[str, Any] = {"ha": "right", "va": "bottom", "fontsize": 8, "color": "#777777"}
        axes.text(*place, level.name, transform=axes.get_yaxis_transform(), **look)
    axes.margins(x=0.15, y=0.12)
    set_factor_axis(axes, [factor for factor, _ in panel.factors])
    set_score_axis(axes, "y", panel.scores)
    if not panel.scores[0].higher_is_better:
        axes.invert_yaxis()
    axes.set_xlabel(draw.plain(panel.label))
    axes.set_ylabel(draw.plain(draw.labelled(panel.scores, with_point=True)))
    return handles

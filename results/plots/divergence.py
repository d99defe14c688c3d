"""Plots of the attention divergence of conversions: by layer for all models, and by layer and head for each model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..record import Record
from ..stats.statistics import Floats
from . import draw
from .draw import Plot, Style, Styles
from .head_divergence import HeadDivergence, by_layer, head_divergences, spread_of_heads
from .scales import set_plain_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

MOST_MAPS = 8
"""Most models in a figure of heat maps."""

_QUANTITY = "KL divergence from softmax attention [nats]"
_NO_VALUE = "#d0d0d0"
_BEFORE: dict[str, Any] = {"linestyle": "--", "alpha": 0.55, "linewidth": 1.2, "markersize": 3.5}
_AFTER: dict[str, Any] = {"linestyle": "-", "linewidth": 1.8, "markersize": 4.5}


def divergence_plots(records: Iterable[Record], styles: Styles) -> Iterator[Plot]:
    """The plots `divergence` by layer and `heads` as heat maps, for each comparison with such curves."""
    for comparison, models in head_divergences(records).items():
        title = draw.titled(f"{comparison.task}: attention divergence by layer", comparison)
        yield Plot("divergence", comparison, title, _layers_figure(models, styles, title))
        shown = sorted(models, key=lambda model: model.after is None)[:MOST_MAPS]  # distilled models first
        some = f", {len(shown)} of {len(models)} models" if len(shown) < len(models) else ""
        title = draw.titled(f"{comparison.task}: attention divergence by head{some}", comparison)
        yield Plot("heads", comparison, title, _heads_figure(shown, title))


def _layers_figure(models: Sequence[HeadDivergence], styles: Styles, title: str) -> Figure:
    """A line for each state of each model, and the spread after distillation; before it, if no model was distilled."""
    from matplotlib.ticker import MaxNLocator

    is_distilled = any(model.after is not None for model in models)
    figure, (axes,) = draw.new_figure(9.0, max(4.2, 1.8 + 0.21 * len(models)))
    for model in models:
        for state, look in ((model.before, _BEFORE), (model.after, _AFTER)):
            if state is not None:
                _draw_layers(axes, state, styles[model.label], look)
        spread = model.after if is_distilled else model.before
        if spread is not None:
            _draw_spread(axes, spread, styles[model.label])
    if _is_wide([by_layer(state) for state in _states(models)]):
        axes.set_yscale("log")
        set_plain_ticks(axes.yaxis)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(-0.5, max(len(state) for state in _states(models)) - 0.5)
    axes.set_xlabel("layer (line: mean over heads and seeds)")
    axes.set_ylabel(_QUANTITY)
    return draw.finished(figure, title, _legend(models, styles))


def _draw_layers(axes: Axes, state: Floats, style: Style, look: dict[str, Any]) -> None:
    """The line, with gaps at layers without a value and crosses at the top for values that are not finite."""
    means = by_layer(state)
    layers = np.arange(len(means))
    finite = np.where(np.isfinite(means), means, np.nan)
    axes.plot(layers, finite, color=style.colour, marker=style.marker, **look)
    if np.isinf(means).any():
        draw.mark_missing(axes, layers[np.isinf(means)].astype(np.float64), style)


def _draw_spread(axes: Axes, state: Floats, style: Style) -> None:
    """From the lowest head to the highest: a band, or a bar if there is only one layer."""
    low, high = spread_of_heads(state)
    layers = np.arange(len(low))
    if len(layers) > 1:
        axes.fill_between(layers, low, high, color=style.colour, alpha=0.1, linewidth=0)
    else:
        axes.vlines(layers, low, high, color=style.colour, alpha=0.5)


def _legend(models: Sequence[HeadDivergence], styles: Styles) -> dict[str, Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    looks = {model.label: styles[model.label].look | {"linestyle": "-", "linewidth": 1.8} for model in models}
    handles: dict[str, Any] = {label: Line2D([], [], **look) for label, look in looks.items()}
    if any(model.before is not None for model in models):
        handles["before distillation"] = Line2D([], [], color="#555555", **_BEFORE)
    if any(model.after is not None for model in models):
        handles["after distillation"] = Line2D([], [], color="#555555", **_AFTER)
    if any(state.shape[1] > 1 for state in _states(models)):
        handles["lowest to highest head"] = Patch(color="#555555", alpha=0.15)
    if any(np.isinf(state).any() for state in _states(models)):
        handles["not finite"] = Line2D([], [], color="#555555", **draw.CROSS)
    return handles


def _heads_figure(models: Sequence[HeadDivergence], title: str) -> Figure:
    """A row for each model, its two states side by side, all in the same colours."""
    norm = _colour_scale(models)
    layers, heads = (max(state.shape[axis] for state in _states(models)) for axis in (0, 1))
    width, height = min(6.0, max(2.4, 0.17 * layers)), min(2.4, max(0.6, 0.13 * heads))
    tall = (height + 0.35) * len(models) + 1.3
    figure, grid = draw.new_grid(len(models), 2, (2 * width + 2.0, tall), share_x=True, share_y=True)
    for model, row in zip(models, grid, strict=True):
        for axes, state, when in zip(row, (model.before, model.after), ("before", "after"), strict=True):
            axes.set_title(f"{draw.plain(model.label)}, {when} distillation", fontsize=9, loc="left")
            _draw_heads(axes, state, norm, (layers, heads), "not distilled" if when == "after" else "not measured")
    draw.label_edges(grid, "layer", "head")
    quantity = "KL divergence [nats]" if len(models) < 3 else _QUANTITY
    draw.add_colour_bar(figure, norm, grid, quantity, fraction=0.05, pad=0.02, aspect=6 * tall)
    if any(not np.isfinite(state).all() for state in _states(models)):
        title += "; grey: no finite value"
    return draw.finished(figure, title)


def _draw_heads(axes: Axes, state: Floats | None, norm: Normalize, size: tuple[int, int], absent: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.grid(False)
    if state is None:
        axes.text(0.5, 0.5, absent, transform=axes.transAxes, ha="center", va="center", color="#777777")
    else:
        axes.set_facecolor(_NO_VALUE)
        finite = np.where(np.isfinite(state), state, np.nan).T
        axes.pcolormesh(finite, norm=norm, cmap=draw.COLOUR_MAP, edgecolors="face", linewidth=0.2)
    for axis, count, bins in ((axes.xaxis, size[0], 10), (axes.yaxis, size[1], 4)):
        ticks = [int(tick) for tick in MaxNLocator(bins, integer=True).tick_values(0, count - 1) if 0 <= tick < count]
        axis.set_ticks([tick + 0.5 for tick in ticks], [str(tick) for tick in ticks])
    axes.set_xlim(0, size[0])
    axes.set_ylim(size[1], 0)


def _colour_scale(models: Sequence[HeadDivergence]) -> Normalize:
    from matplotlib.colors import LogNorm, Normalize

    values = np.concatenate([state[np.isfinite(state)] for state in _states(models)])
    if not len(values):
        return Normalize(0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    if _is_wide([values]):
        return LogNorm(low, high)
    return Normalize(min(0.0, low), high if high > min(0.0, low) else 1.0)


def _is_wide(parts: Sequence[Floats]) -> bool:
    """Whether finite values are positive and so far apart that a logarithmic scale helps."""
    values = np.concatenate(parts)
    finite = values[np.isfinite(values)]
    return bool(len(finite)) and bool(finite.min() > 0) and bool(finite.max() > draw.WIDE_FROM * finite.min())


def _states(models: Sequence[HeadDivergence]) -> list[Floats]:
    return [state for model in models for state in (model.before, model.after) if state is not None]

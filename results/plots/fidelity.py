"""Plots of attention beside softmax's: measures by layer, divergence over lengths, weight against q·k, and maps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..record import Record
from ..stats.evidence import Samples
from ..stats.statistics import Floats
from ..tables.row import REFERENCE_MODEL, Row, grouped
from . import draw
from .draw import Plot, Styles
from .fidelity_samples import Fidelity, HeadSample, fidelities, spikiest_heads
from .scales import set_length_axis, set_plain_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

MOST_MODELS = 6
"""Most models in a figure of single heads."""

LENGTHS_METRIC = "attention_kl_at"
"""The sweep that is drawn here, with a panel for each corpus."""

_PANELS: Mapping[str, str] = {
    "kl": "KL from softmax [nats]",
    "entropy": "entropy of rows [nats]",
    "monotonicity": "rank correlation with q·k",
    "overlap": "share of softmax's top 8 keys",
}
_SOLID: dict[str, Any] = {"linestyle": "-"}
_SOFTMAX: dict[str, Any] = {"linestyle": "--", "linewidth": 1.1, "alpha": 0.75}
_TEACHER: dict[str, Any] = {"linestyle": ":", "linewidth": 1.4}
_GREY, _DARK = "#9a9a9a", "#555555"
_LEAST_WEIGHT = 1e-5
_FEWEST_KEYS = 8

_Place: TypeAlias = tuple[int, int]
"""A layer and a head of it."""


def fidelity_plots(records: Iterable[Record], samples: Samples, styles: Styles) -> Iterator[Plot]:
    """The plots `layers`, `products` and `maps` of each comparison that has predictions."""
    for comparison, models in fidelities(records, samples).items():
        corpus, tokens = models[0].place
        title = f"{comparison.task}: attention by layer on {corpus}, up to {tokens} tokens ({comparison.place})"
        measured = [model for model in models if model.layers]
        yield Plot("layers", comparison, title, _layers_figure(measured, styles, title))
        shown = [model for model in models if model.heads and model.model != REFERENCE_MODEL][:MOST_MODELS]
        heads = spikiest_heads([model for model in models if model.heads][:1]) if shown else []
        if heads:
            title = f"{comparison.task}: weight against q·k ({comparison.place})"
            yield Plot("products", comparison, title, _products_figure(shown, heads, styles, title))
            title = f"{comparison.task}: attention maps ({comparison.place})"
            yield Plot("maps", comparison, title, _maps_figure(shown, heads, title))


def lengths_plots(rows: Iterable[Row], styles: Styles) -> Iterator[Plot]:
    """Divergence over lengths, a panel for each corpus."""
    swept = (row for row in rows if row.metric == LENGTHS_METRIC and row.model != REFERENCE_MODEL)
    for comparison, points in grouped(swept, lambda row: row.comparison).items():
        if len({row.seq_len for row in points if row.value is not None}) > 1:
            title = f"{comparison.task}: divergence from softmax over lengths ({comparison.place})"
            yield Plot("lengths", comparison, title, _lengths_figure(points, styles, title))


def _layers_figure(models: Sequence[Fidelity], styles: Styles, title: str) -> Figure:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    figure, grid = draw.new_grid(2, 2, (9.6, 6.2), share_x=True)
    for axes, (name, label) in zip(grid.flat, _PANELS.items(), strict=True):
        for model in models:
            style, values = styles[model.label], model.layers[name]
            if name == "entropy":
                axes.plot(model.layers["softmax_entropy"], color=style.colour, **_SOFTMAX)
            if model.model != REFERENCE_MODEL or name == "entropy":
                axes.plot(values, markersize=4, **style.look | _SOLID)
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    teacher = _draw_teacher(grid[0][0], grid[0][1], models, styles)
    for axes in grid[-1]:
        axes.set_xlabel("layer (mean over heads)")
    handles = {model.label: Line2D([], [], **styles[model.label].look | _SOLID) for model in models}
    handles |= {"softmax over the\nsame q and k": Line2D([], [], color=_DARK, **_SOFTMAX), **teacher}
    _scale_divergence(grid[0][0], [line.get_ydata() for line in grid[0][0].get_lines()])
    return draw.finished(figure, title, handles)


def _draw_teacher(divergence: Axes, entropy: Axes, models: Sequence[Fidelity], styles: Styles) -> dict[str, Any]:
    """Divergence from the teacher of each model that has one, and the teacher's entropy; its entry in the legend.

    Models of a comparison were converted from the same teacher.
    """
    from matplotlib.lines import Line2D

    taught = [model for model in models if "teacher_entropy" in model.layers]
    for model in taught:
        divergence.plot(model.layers["kl_from_teacher"], color=styles[model.label].colour, **_TEACHER)
    for model in taught[:1]:
        entropy.plot(model.layers["teacher_entropy"], color=_DARK, **_TEACHER)
    return {"softmax model\nbefore conversion": Line2D([], [], color=_DARK, **_TEACHER)} if taught else {}


def _scale_divergence(axes: Axes, parts: Sequence[Iterable[float]]) -> None:
    """An axis from zero, or a logarithmic one if values are far apart."""
    values = [value for part in parts for value in part if value > 0]
    if values and max(values) > draw.WIDE_FROM * min(values):
        axes.set_yscale("log")
        set_plain_ticks(axes.yaxis)
    else:
        axes.set_ylim(bottom=0)


def _lengths_figure(points: Sequence[Row], styles: Styles, title: str) -> Figure:
    """A line per model with its errors, and a cross at the top for each length without a value."""
    corpora = grouped(points, lambda row: str(row.coordinates["corpus"]))
    figure, every_axes = draw.new_figure(2.6 + 3.4 * len(corpora), 3.9, len(corpora), True)
    handles: dict[str, Any] = {}
    for axes, (corpus, rows) in zip(every_axes, corpora.items(), strict=True):
        for label, line in grouped(rows, lambda row: row.label).items():
            line.sort(key=lambda row: row.seq_len)
            handles[label] = draw.sweep(axes, line, styles[label])
            if lost := [row.seq_len for row in line if row.value is None]:
                handles[f"{label}: no value"] = draw.mark_missing(axes, lost, styles[label])
        set_length_axis(axes, rows)
        axes.set_title(draw.plain(corpus), fontsize=10, loc="left")
        axes.set_xlabel("tokens")
    _scale_divergence(every_axes[0], [[row.value or 0.0 for row in points]])
    every_axes[0].set_ylabel(_PANELS["kl"])
    return draw.finished(figure, title, handles)


def _products_figure(models: Sequence[Fidelity], heads: Sequence[_Place], styles: Styles, title: str) -> Figure:
    """A row for each model, a column for each head: a point for each key that a query sees, softmax's points behind.

    Queries that see few keys are left out, because their weights are large whatever the product.
    """
    from matplotlib.ticker import MaxNLocator

    size = (1.2 + 2.9 * len(heads), 1.1 + 2.3 * len(models))
    figure, grid = draw.new_grid(len(models), len(heads), size, share_x="col", share_y=True)
    for model, row in zip(models, grid, strict=True):
        for axes, place in zip(row, heads, strict=True):
            if sample := _sample(model, place):
                _scatter(axes, sample.products, sample.softmax, {"c": _GREY, "s": 9})
                _scatter(axes, sample.products, sample.weights, {"c": styles[model.label].colour, "s": 7})
            axes.set_title(f"{draw.plain(model.label)}, layer {place[0]}, head {place[1]}", fontsize=9, loc="left")
            axes.set_yscale("log")
            axes.xaxis.set_major_locator(MaxNLocator(5))
        set_plain_ticks(row[0].yaxis)
    draw.label_edges(grid, "q·k / √d", "weight")
    return draw.finished(figure, f"{title}; grey: softmax")


def _scatter(axes: Axes, products: Floats, weights: Floats, look: dict[str, Any]) -> None:
    """A point for each key that is seen; the smallest weights lie on one line."""
    seen = ~np.isnan(products)
    seen &= seen.sum(axis=1, keepdims=True) >= _FEWEST_KEYS
    axes.scatter(products[seen], np.maximum(weights[seen], _LEAST_WEIGHT), alpha=0.7, linewidths=0, **look)


def _maps_figure(models: Sequence[Fidelity], heads: Sequence[_Place], title: str) -> Figure:
    """A row for each model, and for each head two maps: softmax's and the model's, all in the same colours."""
    from matplotlib.colors import PowerNorm

    norm = PowerNorm(0.5, 0.0, 1.0)
    size = (1.4 + 3.3 * len(heads), 1.0 + 1.85 * len(models))
    figure, grid = draw.new_grid(len(models), 2 * len(heads), size, share_x=True, share_y=True)
    for model, row in zip(models, grid, strict=True):
        for i, place in enumerate(heads):
            if sample := _sample(model, place):
                where = f"layer {place[0]}, head {place[1]}"
                _draw_map(row[2 * i], sample.softmax, norm, f"{where}: softmax")
                _draw_map(row[2 * i + 1], sample.weights, norm, draw.plain(model.label))
    draw.label_edges(grid, "key", "query")
    draw.add_colour_bar(figure, norm, grid, "attention weight", fraction=0.03, pad=0.01)
    return draw.finished(figure, title)


def _draw_map(axes: Axes, weights: Floats, norm: Normalize, title: str) -> None:
    """A square for each key that is seen, and nothing for the others, which would double the size of the file."""
    from matplotlib.collections import PolyCollection

    query, key = np.nonzero(~np.isnan(weights))
    squares = np.stack([key, query], axis=-1)[:, None] + np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
    look: dict[str, Any] = {"norm": norm, "cmap": draw.COLOUR_MAP, "edgecolors": "face", "linewidths": 0.2}
    axes.add_collection(PolyCollection(list(squares), array=weights[query, key], **look))
    axes.grid(False)
    axes.set_xlim(0, weights.shape[1])
    axes.set_ylim(len(weights), 0)
    axes.set_aspect("equal")
    axes.set_title(title, fontsize=8, loc="left")
    axes.set_xticks([])
    axes.set_yticks([])


def _sample(model: Fidelity, place: _Place) -> HeadSample | None:
    return next((sample for sample in model.heads if (sample.layer, sample.head) == place), None)

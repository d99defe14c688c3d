"""How every plot looks: one colour and marker per model, a legend outside, files that are equal byte for byte.

Matplotlib's object interface is used throughout: no global figure, no display, no change of its global settings.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..tables.aggregate import REFERENCE_MODEL
from ..tables.tables import model_label

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

PNG_DPI = 150
_LONG_FROM = 1e4
_GRID = "#d9d9d9"
_INK = "#222222"

_TELLS = "tells: "
_TOLD = re.compile(rf'<g id="{_TELLS}([^"]*)">')
"""Matplotlib escapes identifiers as it does all attributes, which holds for an element's text too."""

# Okabe & Ito's palette for colour-blind readers, without its yellow, which is faint on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--", "-.", ":")

_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "hedgebench",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


@dataclass(frozen=True)
class Style:
    """How one model is drawn, in every plot of a report."""

    colour: str
    marker: str
    line: str


def model_styles(models: Iterable[tuple[str, int]]) -> dict[str, Style]:
    """A style for each model's label, from (model, variant); softmax is black, the rest follow in order of name."""
    labels = [model_label(*key) for key in sorted(set(models), key=lambda key: (key[0] != REFERENCE_MODEL, key))]
    styles: dict[str, Style] = {}
    for label in labels:
        turn, place = divmod(len(styles) - (REFERENCE_MODEL in styles), len(_COLOURS))
        styles[label] = Style(_COLOURS[place], _MARKERS[turn % len(_MARKERS)], _LINES[turn % len(_LINES)])
        if label == REFERENCE_MODEL:
            styles[label] = Style("#000000", "o", "-")
    return styles


@contextmanager
def plot_settings() -> Iterator[None]:
    """Our look and determinism, for figures made and saved inside."""
    import matplotlib

    with matplotlib.rc_context(_SETTINGS):
        yield


def new_figure(width: float, height: float, panels: int = 1, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of `panels` side by side, sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False, sharey=share_y)
    return figure, list(axes[0])


def add_legend(figure: Figure, handles: Mapping[str, Any]) -> None:
    """A legend to the right of the panels, one line for each label."""
    if handles:
        figure.legend(list(handles.values()), list(handles), loc="outside right center", fontsize=9)


def add_title(figure: Figure, title: str) -> None:
    """A title at the left, above the panels and the legend."""
    figure.suptitle(plain(title), fontsize=11, x=0.01, ha="left")


def set_plain_ticks(axis: Axis) -> None:
    """On a logarithmic axis: 0.2 rather than 2 × 10⁻¹, and ticks between the powers of ten where those are few."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    is_long = high > _LONG_FROM * low
    axis.set_major_locator(LogLocator(subs=(1.0,) if is_long else (1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def plain(text: str) -> str:
    """Text that Matplotlib draws as it is: `$` does not start a formula."""
    return text.replace("$", r"\$")


def tell(artist: Artist, text: str) -> None:
    """Makes a mark tell its value: browsers show an SVG's titles under the pointer, and read them aloud."""
    artist.set_gid(_TELLS + text)


def to_svg(figure: Figure) -> str:
    """The figure as SVG, the same text for the same data; marks have the titles that `tell` gave them."""
    buffer = io.StringIO()
    with plot_settings():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _TOLD.sub(r'<g class="mark"><title>\1</title>', buffer.getvalue())


def save(figure: Figure, stem: Path) -> str:
    """Writes `stem`.svg and `stem`.png; returns the SVG text."""
    svg = to_svg(figure)
    stem.with_name(stem.name + ".svg").write_text(svg, encoding="utf-8")
    with plot_settings():
        figure.savefig(stem.with_name(stem.name + ".png"), format="png", dpi=PNG_DPI, metadata={"Software": None})
    return svg

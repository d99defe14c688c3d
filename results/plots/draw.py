"""What all plots share: panels, titles, legends, axes, and one colour and marker per model.

The same data gives the same files, byte for byte. Plots use Matplotlib's object interface: no global figure, no
display, no change of global settings.
"""

from __future__ import annotations

import hashlib
import io
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ..run_folder import RunFolder
from ..stats.statistics import Floats
from ..tables.format import format_with_error
from ..tables.row import REFERENCE_MODEL, Conditions, ModelKey, Row, model_label, softmax_first
from ..tables.tables import metric_label
from .scales import set_plain_ticks

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.container import ErrorbarContainer
    from matplotlib.figure import Figure

PNG_DPI = 150
_LONGEST_NAME_BYTES = 200
"""File systems allow 255, of which endings and temporary names take a part."""
COLOUR_MAP = "viridis"
WIDE_FROM = 10.0
"""Ratio of the largest to the smallest value from which a divergence is drawn on a logarithmic axis."""

CROSS: dict[str, Any] = {"marker": "x", "linestyle": "none", "markersize": 7, "markeredgewidth": 2}
"""Look of the mark of a missing value."""

_LETTERS_PER_INCH = 11.5
"""Letters of a title that fit an inch."""
_GRID = "#d9d9d9"
_INK = "#222222"

_TELLS = "tells: "
_TOLD = re.compile(rf'<g id="{_TELLS}([^"]*)">')
"""Matches an identifier that `tell` made; Matplotlib has escaped it, so it can become the text of an element."""

# Okabe & Ito's palette for colour-blind readers, without its yellow, which is faint on white, and three darker colours
# that are as far from the others, also to protanopes and deuteranopes.
_COLOURS = (
    *("#0072B2", "#D55E00", "#332288"),
    *("#009E73", "#882255", "#56B4E9"),
    *("#E69F00", "#661100", "#CC79A7"),
)  # fmt: skip
# Eight markers and a line for each three models: no two of 24 models have both in common, so that grey print is enough.
_MARKERS = ("s", "^", "D", "v", "P", "X", "<", "*")
_LINES = ("-", "--", "-.", ":")
_MODELS_PER_LINE = 3

_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "hedgebench",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "axes.edgecolor": "#888888",
    **dict.fromkeys(("axes.axisbelow", "axes.grid"), True),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
}


@dataclass(frozen=True)
class Style:
    """How one model is drawn, in every plot of a report."""

    colour: str
    marker: str
    line: str

    @property
    def look(self) -> dict[str, Any]:
        """Matplotlib's arguments for a line in this style."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.line}


Styles: TypeAlias = Mapping[str, Style]
"""Styles by the label of a model."""


@dataclass(frozen=True)
class Plot:
    """A finished plot.

    Attributes:
        kind: Such as `quality`; the name of its files starts with it.
        comparison: Where its numbers were measured.
        title: The title above it.
        figure: The figure.
        detail: What else sets its files apart from other plots of its kind.
    """

    kind: str
    comparison: Conditions
    title: str
    figure: Figure
    detail: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Name of its files, without suffix."""
        where = self.comparison
        limit = "" if where.limit is None else f"limit{where.limit}"
        parts = (self.kind, where.task, *self.detail, where.backbone, where.recipe, where.scale, limit)
        return re.sub(r"[^A-Za-z0-9_.]+", "-", "-".join(filter(None, parts))).strip("-.")


def model_styles(models: Iterable[ModelKey]) -> dict[str, Style]:
    """A style for each model's label, from (model, variant); softmax is black, the rest follow in order of name.

    Nine models beside softmax have colours of their own. Of 24, no two share both marker and line, as grey print needs.
    """
    styles: dict[str, Style] = {}
    for label in (model_label(*key) for key in sorted(set(models), key=softmax_first)):
        number = len(styles) - (REFERENCE_MODEL in styles)
        colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
        styles[label] = Style(colour, marker, _LINES[number // _MODELS_PER_LINE % len(_LINES)])
        if label == REFERENCE_MODEL:
            styles[label] = Style("#000000", "o", "-")
    return styles


def plot_settings() -> AbstractContextManager[None]:
    """Settings for figures made and saved inside the block: the look of all plots, and the same bytes each time."""
    import matplotlib

    return matplotlib.rc_context(_SETTINGS)


def new_grid(
    rows: int, columns: int, size: tuple[float, float], share_x: bool | Literal["col"] = False, share_y: bool = False
) -> tuple[Figure, Any]:
    """A figure of some width and height in inches, and its panels as an array `[rows columns]`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharex=share_x, sharey=share_y)


def new_figure(width: float, height: float, panels: int = 1, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of `panels` side by side, sizes in inches."""
    figure, grid = new_grid(1, panels, (width, height), share_y=share_y)
    return figure, list(grid[0])


def finished(figure: Figure, title: str, handles: Mapping[str, Any] | None = None) -> Figure:
    """The figure with a title above it at the left and a legend, one line for each handle, to the right.

    The legend has no error bars, which would hide its markers.
    """
    from matplotlib.container import ErrorbarContainer

    lines = textwrap.wrap(title, int(_LETTERS_PER_INCH * figure.get_figwidth()), break_on_hyphens=False)
    figure.suptitle(plain("\n".join(lines)), fontsize=11, x=0.01, ha="left")
    if handles:
        shown = [each.lines[0] if isinstance(each, ErrorbarContainer) else each for each in handles.values()]
        look: dict[str, Any] = {"loc": "outside right center", "fontsize": 9, "handlelength": 2.8}
        figure.legend(shown, list(map(plain, handles)), **look)
    return figure


def add_colour_bar(figure: Figure, norm: Normalize, panels: Any, label: str, **place: Any) -> None:
    """Adds a colour bar of `COLOUR_MAP` beside all panels."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    bar = figure.colorbar(ScalarMappable(norm, COLOUR_MAP), ax=list(panels.flat), **place)
    assert bar.solids is not None
    bar.solids.set_rasterized(False)  # an SVG with an image in it would need more than the page's policy allows
    if isinstance(norm, LogNorm):
        set_plain_ticks(bar.ax.yaxis)
    bar.set_label(label)


def titled(text: str, comparison: Conditions) -> str:
    """A title with backbone, recipe, scale and limit."""
    partial = "" if comparison.limit is None else f", first {comparison.limit} rows"
    return f"{text} ({comparison.place}{partial})"


def point(
    axes: Axes, x: float | None, y: float | None, style: Style, xerr: float | None = None, yerr: float | None = None
) -> ErrorbarContainer:
    """A model's mark with its standard errors."""
    look: dict[str, Any] = {"fmt": style.marker, "color": style.colour, "capsize": 3, "markersize": 7}
    return axes.errorbar(x or 0.0, y or 0.0, xerr=xerr or None, yerr=yerr or None, **look)


def sweep(axes: Axes, rows: Sequence[Row], style: Style) -> ErrorbarContainer:
    """A model's line over sequence lengths, with standard errors; rows without a value are left out."""
    measured = [row for row in rows if row.value is not None]
    return axes.errorbar(
        [row.seq_len for row in measured],
        [row.value or 0.0 for row in measured],
        yerr=[row.stderr or 0.0 for row in measured],
        capsize=2,
        markersize=5,
        **style.look,
    )


def mark_missing(axes: Axes, xs: Sequence[float] | Floats, style: Style) -> Artist:
    """Crosses at the top of a panel at points without a value."""
    look = CROSS | {"color": style.colour, "transform": axes.get_xaxis_transform()}
    (crosses,) = axes.plot(xs, [0.97] * len(xs), **look)
    return crosses


def label_edges(panels: Any, x: str, y: str) -> None:
    """Labels the lowest panels' x axes and the leftmost panels' y axes."""
    for axes in panels[-1]:
        axes.set_xlabel(x)
    for axes in panels[:, 0]:
        axes.set_ylabel(y)


def plain(text: str) -> str:
    """Text that Matplotlib draws as it is: `$` does not start a formula."""
    return text.replace("$", r"\$")


def labelled(rows: Sequence[Row], with_point: bool = False) -> str:
    """The axis label of rows of one metric: its name, unit and direction, and the sweep's point if asked for."""
    row = next((row for row in rows if row.value is not None), rows[0])
    return metric_label(row) + (f", {row.point}" if with_point and row.at else "")


def told(row: Row) -> str:
    """The text of a mark: model, metric, value and standard error."""
    unit = "" if row.unit in ("1", "bytes") else f" {row.unit}"
    return f"{row.label}: {row.metric} {format_with_error(row.value, row.stderr, row.unit)}{unit}"


def tell(artist: Artist, text: str) -> None:
    """Gives a mark a text: browsers show an SVG's titles under the pointer, and screen readers read them aloud."""
    artist.set_gid(_TELLS + text)


def to_svg(figure: Figure) -> str:
    """The figure as SVG, the same text for the same data; marks have the titles that `tell` gave them."""
    buffer = io.StringIO()
    with plot_settings():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _TOLD.sub(r'<g class="mark"><title>\1</title>', buffer.getvalue())


def save(figure: Figure, stem: Path) -> str:
    """Writes `stem`.svg and `stem`.png, with a shorter name if it is too long for a file; returns the SVG text.

    Raises:
        StoreError: A file cannot be written.
    """
    svg, png, folder = to_svg(figure), io.BytesIO(), RunFolder(stem.parent)
    figure.set_layout_engine(None)  # to lay it out again would take as long as to draw it
    with plot_settings():
        figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None})
    name = _file_name(stem.name)
    folder.write(stem.with_name(f"{name}.svg"), svg.encode())
    folder.write(stem.with_name(f"{name}.png"), png.getvalue())
    return svg


def _file_name(name: str) -> str:
    """A name that a file may have: a long one ends in a hash of the whole."""
    raw = name.encode()
    if len(raw) <= _LONGEST_NAME_BYTES:
        return name
    return raw[: _LONGEST_NAME_BYTES - 17].decode(errors="ignore") + "-" + hashlib.sha256(raw).hexdigest()[:16]

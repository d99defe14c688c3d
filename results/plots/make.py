"""The plots of a report: quality against cost first, scores, sweeps over lengths, training curves, attention."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..record import Record
from ..stats.evidence import Samples
from ..tables.aggregate import leaderboard_rows
from . import draw
from .curves import curve_plots
from .divergence import divergence_plots
from .draw import Plot
from .efficiency import efficiency_plots
from .fidelity import fidelity_plots, lengths_plots
from .overview import overview_plots
from .quality import DRAWN_AGAINST, plots_against, quality_plots
from .sweeps import layer_plots, sweep_plots


@dataclass(frozen=True)
class Drawing:
    """A plot as SVG.

    Attributes:
        kind: As in `Plot`.
        task: The task that it is about.
        title: The title above it.
        svg: The file's text.
    """

    kind: str
    task: str
    title: str
    svg: str


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
            *overview_plots(rows, styles),
            *quality_plots(rows, styles),
            *sweep_plots(rows, styles),
            *layer_plots(rows, styles),
            *(fidelity_plots(records, samples, styles) if samples else ()),
            *lengths_plots(rows, styles),
            *curve_plots(records, styles),
            *divergence_plots(records, styles),
            *(plot for kind in DRAWN_AGAINST for plot in plots_against(rows, styles, kind)),
            *efficiency_plots(records, rows, styles),
        ]


def write_plots(records: Iterable[Record], folder: Path, samples: Samples | None = None) -> list[Drawing]:
    """Writes every plot as SVG and PNG into a folder that exists."""
    return [_drawing(plot, draw.save(plot.figure, folder / plot.name)) for plot in make_plots(records, samples)]


def svg_plots(records: Iterable[Record], samples: Samples | None = None) -> list[Drawing]:
    """Every plot."""
    return [_drawing(plot, draw.to_svg(plot.figure)) for plot in make_plots(records, samples)]


def _drawing(plot: Plot, svg: str) -> Drawing:
    return Drawing(plot.kind, plot.comparison.task, plot.title, svg)

"""Plots of training curves: one panel for each quantity of each stage, in the order of the stages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from ..record import PART_MARK, TRAINING_SPLIT, CurvePoint, Record
from ..tables.aggregate import group_seeds
from ..tables.row import Conditions, grouped
from . import draw
from .draw import Plot, Styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BESIDE = 3
"""Most panels beside each other."""

_Point: TypeAlias = tuple[str, CurvePoint, int]
"""A model's label, a point and the seed."""


def curve_plots(records: Iterable[Record], styles: Styles) -> Iterator[Plot]:
    """A plot for each task that has curves of whole models.

    A model's seeds share its colour. Lines of the training split are thin and pale, those of other splits strong.
    Curves of parts of a model are left out: there are too many for panels.
    """
    tasks: dict[Conditions, list[_Point]] = defaultdict(list)
    for cells in group_seeds(records):
        tasks[cells.comparison] += [
            (cells.label, point, record.seed)
            for record in cells.records
            for point in record.curves
            if PART_MARK not in point.name
        ]
    for comparison, points in sorted(tasks.items(), key=lambda item: repr(item[0])):
        if points:
            title = f"{comparison.task}: training curves ({comparison.place})"
            yield Plot("curves", comparison, title, _figure(points, styles, title))


def _figure(points: Sequence[_Point], styles: Styles, title: str) -> Figure:
    from matplotlib.ticker import MaxNLocator

    names = _in_order_of_stages(points)
    models = {label for label, _, _ in points}
    splits = {point.split for _, point, _ in points}
    rows = -(-len(names) // MOST_BESIDE)
    columns = -(-len(names) // rows)
    height = max(0.3 + 3.3 * rows, 1.3 + 0.21 * len(models))
    figure, grid = draw.new_grid(rows, columns, (2.4 + 3.8 * columns, height))
    handles: dict[str, Any] = {}
    for axes in grid.flat[len(names) :]:
        axes.remove()
    for name, axes in zip(names, grid.flat, strict=False):
        handles = _draw(axes, [entry for entry in points if entry[1].name == name], styles) | handles
        axes.set_xlabel("step (thin lines: training split)" if len(splits) > 1 and TRAINING_SPLIT in splits else "step")
        axes.set_ylabel(draw.plain(name))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return draw.finished(figure, title, {label: handles[label] for label in styles if label in handles})


def _in_order_of_stages(points: Iterable[_Point]) -> list[str]:
    """The names of all models in the order of the stages; a model may lack some, as softmax skips stages.

    The longest list comes first. A name that it lacks is put behind the name that it follows in its own list.
    """
    lists: dict[tuple[str, int], dict[str, None]] = defaultdict(dict)
    for label, point, seed in points:
        lists[label, seed][point.name] = None
    ordered: list[str] = []
    for names in sorted(map(list, lists.values()), key=lambda names: (-len(names), names)):
        place = 0
        for name in names:
            if name not in ordered:
                ordered.insert(place, name)
            place = ordered.index(name) + 1
    return ordered


def _draw(axes: Axes, points: Sequence[_Point], styles: Styles) -> dict[str, Any]:
    handles: dict[str, Any] = {}
    for (label, split, seed), line in grouped(points, lambda each: (each[0], each[1].split, each[2])).items():
        ordered = sorted((point for _, point, _ in line), key=lambda point: point.step)
        is_training = split == TRAINING_SPLIT
        thin: dict[str, Any] = {"linewidth": 0.9, "alpha": 0.45, "marker": None}
        look = styles[label].look | (thin if is_training else {"linewidth": 1.7, "markersize": 4})
        (handle,) = axes.plot([point.step for point in ordered], [point.value for point in ordered], **look)
        last = ordered[-1]
        draw.tell(handle, f"{label}, seed {seed}: {split} {last.name} {last.value:.4g} at its last step, {last.step}")
        if not is_training or label not in handles:
            handles[label] = handle
    return handles

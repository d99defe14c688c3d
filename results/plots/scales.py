"""Scales and ticks of axes: lengths, costs in their units, and no room for values that cannot be measured."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Literal

from ..stats.chance import is_signed
from ..tables.format import format_bytes
from ..tables.row import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

APART = 4.0
"""Ratio of the largest to the smallest cost from which an axis is logarithmic."""

WIDE = 30.0
"""Ratio of the largest to the median value from which an axis of values of any sign is not linear."""

_LONG_FROM, _LARGE = 1e3, 1e7
_TICKS = 6
_APART_FACTORS, _BESIDE = 6.0, 1.35
_BEYOND = 0.03
"""Room for half a mark beyond the end of a scale, as a share of the axis."""


def set_length_axis(axes: Axes, rows: Iterable[Row], most: int = 8) -> None:
    """A logarithmic axis with a tick at each sequence length; about `most` have labels, the longest among them."""
    from matplotlib.ticker import NullFormatter

    lengths = sorted({row.seq_len for row in rows}, reverse=True)
    apart = (lengths[0] / lengths[-1]) ** (1 / most)
    labels: dict[float, str] = {}
    for length in lengths:
        if not labels or length * apart <= min(labels):
            labels[length] = f"{length:g}"
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [labels.get(length, "") for length in lengths])
    axes.xaxis.set_minor_formatter(NullFormatter())


def set_wide_axis(axes: Axes, values: Collection[float]) -> None:
    """A vertical axis of values of any sign: beyond a typical one logarithmic, if the largest is far above it."""
    sizes = sorted(abs(value) for value in values if value and math.isfinite(value))
    if not sizes or sizes[-1] < WIDE * (typical := sizes[len(sizes) // 2]):
        return
    if min(values) > 0:
        axes.set_yscale("log")
    else:
        axes.set_yscale("symlog", linthresh=typical)


def set_cost_axis(axes: Axes, which: Literal["x", "y"], values: Collection[float], unit: str) -> None:
    """Scales an axis of times, rates or bytes: logarithmic if the costs are far apart, else linear and never negative.

    Args:
        axes: The panel, after everything in it is drawn.
        which: The axis.
        values: The costs along it.
        unit: Their unit; ticks of bytes are powers of two with a prefix, such as `4 MiB`.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, MultipleLocator, NullFormatter

    axis: Axis = getattr(axes, f"{which}axis")
    finite = sorted(value for value in values if math.isfinite(value))
    is_log = bool(finite) and finite[0] > 0 and finite[-1] > APART * finite[0]
    if is_log:
        getattr(axes, f"set_{which}scale")("log", **({"base": 2} if unit == "bytes" else {}))
    else:
        keep_possible(axes, which)
    if unit != "bytes":
        if is_log:
            set_plain_ticks(axis)
        else:
            axis.set_major_locator(MaxNLocator(_TICKS))
        return
    low, high = axis.get_view_interval()
    step = 2.0 ** math.ceil(math.log2((high - low) / _TICKS)) if high - low > 0 else 1.0
    most = _TICKS + 2 if which == "y" else _TICKS - 2
    axis.set_major_locator(LogLocator(2, numticks=most) if is_log else MultipleLocator(step))
    axis.set_major_formatter(FuncFormatter(lambda count, _: format_bytes(count).replace(".00", "")))
    axis.set_minor_formatter(NullFormatter())


def set_factor_axis(axes: Axes, factors: Collection[float]) -> None:
    """A logarithmic x axis of costs as factors of softmax's, which is 1, with ticks such as `0.5×`."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    low, high = min(*factors, 1.0), max(*factors, 1.0)
    steps = [step * 10.0**power for power in range(-6, 7) for step in (1, 1.5, 2, 3, 5, 7)]
    if high > 100 * low:
        steps = [10.0**power for power in range(-6, 7)]
    elif high > _APART_FACTORS * low:
        steps = [step * 10.0**power for power in range(-6, 7) for step in (1, 2, 5)]
    axes.set_xscale("log")
    axes.set_xlim(low / _BESIDE, high * _BESIDE)
    axes.xaxis.set_major_locator(FixedLocator(steps))
    axes.xaxis.set_minor_locator(FixedLocator([]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda factor, _: f"{factor:g}×"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def set_score_axis(axes: Axes, which: Literal["x", "y"], rows: Collection[Row]) -> None:
    """Keeps values that a score cannot have off its axis: negative ones, and above 1 those of fractions."""
    values = [row.value for row in rows if row.value is not None and math.isfinite(row.value)]
    if not values or any(is_signed(row.metric) for row in rows) or min(values) < 0:
        return
    keep_possible(axes, which)
    is_fraction = all(row.unit == "1" and row.higher_is_better for row in rows) and max(values) <= 1
    low, high = getattr(axes, f"get_{which}lim")()
    if is_fraction and high > 1:
        getattr(axes, f"set_{which}lim")(low, 1 + _BEYOND * (1 - low))


def keep_possible(axes: Axes, which: Literal["x", "y"]) -> None:
    """Lets an axis of numbers that cannot be negative begin at zero, with room for half a mark, if it begins below."""
    low, high = getattr(axes, f"get_{which}lim")()
    if low < 0 < high:
        getattr(axes, f"set_{which}lim")(-_BEYOND * high, high)


def set_plain_ticks(axis: Axis) -> None:
    """Labels a logarithmic axis 0.2 or 20 M, not 2 × 10⁻¹; an axis of few powers of ten has ticks between them too."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

    large = EngFormatter(sep=" ")
    low, high = axis.get_view_interval()
    is_long = high > _LONG_FROM * low
    if is_long:
        axis.set_major_locator(LogLocator(numticks=_TICKS if axis is axis.axes.xaxis else _TICKS + 2))
    else:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: large(value) if value >= _LARGE else f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())

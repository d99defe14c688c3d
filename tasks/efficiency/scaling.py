"""Scaling exponents: the growth of a quantity with sequence length, fitted over measured lengths, not beyond them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...results.record import Metric, Scalar
from ..heavy import np

LONG_END = 8
"""The long end of a sweep is the lengths within this factor of the longest measured."""
_FEWEST = 3
_CONFIDENCE = 0.95


def exponent_metrics(
    name: str, of: str, points: Sequence[tuple[float, float]], at: Mapping[str, Scalar]
) -> list[Metric]:
    """The exponent over all lengths, and over the long end if that is fewer, each with its 95 % interval.

    An exponent is the slope of a straight line through log quantity against log length: 2 for quadratic growth, 1 for
    linear growth, once fixed costs no longer matter; they matter least at the long end. The interval is Student's for
    that regression. It covers the points' distance from the line, be it noise or growth that follows no power law.
    Fewer than three lengths have no exponent.

    Args:
        name: Name of the metric, such as `time_exponent`; the ends of the interval are `NAME_low` and `NAME_high`.
        of: The mode whose quantity grows, such as `prefill`.
        points: Length and quantity, in any order.
        at: Further coordinates, such as the batch size.
    """
    longest = max((length for length, _ in points), default=0.0)
    whole, long_end = sorted(points), sorted(point for point in points if point[0] * LONG_END >= longest)
    ranges = [whole] if whole == long_end else [whole, long_end]
    return [metric for each in ranges if len(each) >= _FEWEST for metric in _fitted(name, of, each, at)]


def _fitted(name: str, of: str, points: Sequence[tuple[float, float]], at: Mapping[str, Scalar]) -> list[Metric]:
    from scipy import stats

    line: Any = stats.linregress(*np.log(points).T)
    slope, stderr = float(line.slope), float(line.stderr)
    half = float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(points) - 2)) * stderr
    where = {"of": of, "over": f"{points[0][0]:g}..{points[-1][0]:g}", **at}
    return [
        Metric(name, slope, "1", None, stderr, len(points), where),
        Metric(f"{name}_low", slope - half, "1", None, None, len(points), where),
        Metric(f"{name}_high", slope + half, "1", None, None, len(points), where),
    ]

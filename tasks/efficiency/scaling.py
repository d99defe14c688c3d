"""Scaling exponents: how a quantity grows with sequence length, fitted over measured lengths and never beyond them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ...results.record import Metric, Scalar

LONG_END = 8
"""The long end of a sweep is the lengths within this factor of the longest measured."""
_FEWEST = 3
_CONFIDENCE = 0.95


def log_log_slope(lengths: Sequence[float], times: Sequence[float]) -> tuple[float, float]:
    """Slope of log time against log length by least squares, and its standard error; needs three points."""
    import numpy as np

    x, y = np.log(lengths), np.log(times)
    x, y = x - x.mean(), y - y.mean()
    slope = (x * y).sum() / (x * x).sum()
    residual = y - slope * x
    return float(slope), math.sqrt((residual * residual).sum() / (len(x) - 2) / (x * x).sum())


def exponent_metrics(
    name: str, of: str, points: Sequence[tuple[float, float]], at: Mapping[str, Scalar]
) -> list[Metric]:
    """The exponent over all lengths, and over the long end where that is fewer, each with its 95 % interval.

    An exponent is the slope of a straight line through log quantity against log length: 2 for what is quadratic, 1 for
    what is linear, once fixed costs no longer count, which they do least at the long end. The interval is Student's for
    that regression. It holds how far points are off the line, whether from noise or because the growth is no power law.
    Fewer than three lengths give none.

    Args:
        name: Of the metric, such as `time_exponent`; the ends of the interval are `NAME_low` and `NAME_high`.
        of: What grows, such as `prefill`.
        points: Length and quantity, in any order.
        at: Further coordinates, such as the batch.
    """
    longest = max((length for length, _ in points), default=0.0)
    ranges = [sorted(points), sorted(point for point in points if point[0] * LONG_END >= longest)]
    kept = [chosen for chosen in ranges[: 1 if ranges[0] == ranges[1] else 2] if len(chosen) >= _FEWEST]
    return [metric for chosen in kept for metric in _fitted(name, of, chosen, at)]


def _fitted(name: str, of: str, points: Sequence[tuple[float, float]], at: Mapping[str, Scalar]) -> list[Metric]:
    from scipy import stats

    slope, stderr = log_log_slope(*zip(*points, strict=True))
    half = float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(points) - 2)) * stderr
    where = {"of": of, "over": f"{points[0][0]:g}..{points[-1][0]:g}", **at}
    return [
        Metric(name, slope, "1", None, stderr, len(points), where),
        Metric(f"{name}_low", slope - half, "1", None, None, len(points), where),
        Metric(f"{name}_high", slope + half, "1", None, None, len(points), where),
    ]

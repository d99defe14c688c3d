"""Metrics of repeated measurements: medians with their spread, and the state of the device meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ...results.record import Metric, Scalar
from ..heavy import NDArray, np

At: TypeAlias = Mapping[str, Scalar]
"""Coordinates of a metric."""

PERCENTILES = (20, 80)


def median_metric(
    name: str, values: NDArray[np.float64] | Sequence[float], unit: str, higher_is_better: bool | None, at: At
) -> Metric:
    """The median of repeated measurements, with the standard error of a bootstrap and every sample."""
    from ...results.stats.statistics import index_bootstrap

    array = np.asarray(values)
    stderr = index_bootstrap(lambda draws: np.median(array[draws], axis=1), array.size)
    samples = tuple(array.tolist())
    return Metric(name, float(np.median(array)), unit, higher_is_better, stderr, array.size, at, samples=samples)


def spread_metrics(
    name: str, values: NDArray[np.float64] | Sequence[float], unit: str, higher_is_better: bool | None, at: At
) -> list[Metric]:
    """The median, then the percentiles `NAME_p20` and `NAME_p80`, which have no better direction."""
    percentiles = [
        Metric(f"{name}_p{share}", float(np.percentile(values, share)), unit, None, None, len(values), at)
        for share in PERCENTILES
    ]
    return [median_metric(name, values, unit, higher_is_better, at), *percentiles]


def clock_metrics(name: str, reported: Mapping[str, Any], at: At) -> list[Metric]:
    """The lowest clock in MHz, and 1 if the device was throttled, else 0; what `Telemetry.found` lacks is left out."""
    found = []
    if "lowest_sm_clock_mhz" in reported:
        found.append(Metric(f"{name}_lowest_sm_clock_mhz", reported["lowest_sm_clock_mhz"], "mhz", None, None, 1, at))
    if "throttled" in reported:
        found.append(Metric(f"{name}_throttled", float(bool(reported["throttled"])), "1", None, None, 1, at))
    return found

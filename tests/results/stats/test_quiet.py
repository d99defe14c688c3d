"""The limits of a quiet machine, against cells drawn from what machines at rest and busy ones were measured to do."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hedgebench.results.record import Metric
from hedgebench.results.stats.changes import Change, timings_change
from hedgebench.results.stats.evidence import Evidence
from hedgebench.results.stats.quiet import NOT_QUIET, PACE_METRIC, beyond_pace, disturbances
from hedgebench.results.stats.statistics import Floats

from ..simulated import make_record

PROCESS_SPREAD, CALL_SPREAD, POINT_SPREAD = 0.03, 0.05, 0.06
"""Standard deviations of logarithms at rest: between processes, within one, and of a pace point's median."""


def timed(name: str, samples: tuple[float, ...], unit: str = "ms", **at: str) -> Metric:
    return Metric(name, float(np.median(samples)), unit, False, None, len(samples), at, samples=samples)


def cell(name: str, measured: tuple[float, ...], **paces: tuple[float, ...]) -> Evidence:
    call = timed("prefill_ms", measured)
    metrics = [call, *(timed(PACE_METRIC, samples, work=work) for work, samples in paces.items())]
    return Evidence((make_record(name, "throughput", 0, tuple(metrics)),), (call,))


def drawn(rng: np.random.Generator, name: str, slower: float = 1.0, points: int = 6, shared: float = 0.0) -> Evidence:
    """A cell on a machine that is slower by a factor, and shares its processor during a share of its calls."""

    def times(count: int, centre: float) -> Floats:
        found: Floats = (
            np.exp(centre + rng.normal(0, CALL_SPREAD, count)) * np.where(rng.random(count) < shared, 2, 1) * slower
        )
        return found

    paces = {
        work: tuple(each for _ in range(points) for each in times(7, rng.normal(0, POINT_SPREAD)).tolist())
        for work in ("compute", "calls", "memory")
    }
    return cell(name, tuple(times(10, rng.normal(0, PROCESS_SPREAD)).tolist()), **paces)


def rates(**second: Any) -> tuple[float, float]:
    """Shares of pairs of equal models that are refused, and that are told apart."""
    rng = np.random.default_rng(0)
    refused, marked, rounds = 0, 0, 60
    points = second.get("points", 6)
    for _ in range(rounds):
        one, other = drawn(rng, "elu", points=points), drawn(rng, "relu", **second)
        if any(disturbances([one, other])):
            refused += 1
            continue
        change = beyond_pace(timings_change(one.metrics[0], one.timings, other.timings), one, other)
        assert change.p_value is not None
        marked += change.p_value < 0.05
    return refused / rounds, marked / rounds


@pytest.mark.parametrize("points", [2, 6])
def test_cells_of_a_quiet_machine_are_compared(points: int) -> None:
    refused, marked = rates(points=points)
    assert refused <= 0.1
    assert marked <= 0.05


@pytest.mark.parametrize("slower", [1.05, 1.1, 1.15, 1.2])
def test_equal_models_on_a_slightly_slower_machine_are_not_told_apart(slower: float) -> None:
    assert rates(slower=slower)[1] <= 0.05


@pytest.mark.parametrize("second", [{"slower": 1.4}, {"slower": 2.0}, {"shared": 0.3}, {"shared": 0.6}])
def test_cells_of_a_busy_machine_are_refused(second: dict[str, float]) -> None:
    assert rates(**second)[0] >= 0.95


def change(worse: float) -> Change:
    return Change(worse, 0.01, math.inf, "ratio of medians", 5)


@pytest.mark.parametrize(
    ("worse", "kept"), [(0.5, 0.5 - math.log(1.1)), (0.05, 0.0), (math.log(1.1), 0.0), (0.0, 0.0), (-0.3, -0.3)]
)
def test_a_slower_pace_explains_as_much_of_a_slower_time(worse: float, kept: float) -> None:
    one = cell("elu", (1.0, 1.0), compute=(1.0, 1.0), memory=(2.0, 2.0))
    other = cell("relu", (1.0, 1.0), compute=(1.1, 1.1), memory=(2.0, 2.0))
    assert beyond_pace(change(worse), one, other).worse == pytest.approx(kept)
    assert beyond_pace(change(-worse), other, one).worse == pytest.approx(-kept)


def test_times_of_one_cell_and_times_without_a_pace_keep_their_change() -> None:
    one = cell("elu", (1.0, 1.0), compute=(1.0, 1.0))
    same = replace(one, metrics=(timed("decode_ms", (2.0, 2.0)),))
    assert beyond_pace(change(0.2), one, same) == change(0.2)
    assert beyond_pace(change(0.2), one, cell("relu", (1.0, 1.0))) == change(0.2)


def test_a_call_that_swings_by_more_than_half_is_refused() -> None:
    steady, swinging = (tuple([1.0] * 7 + [ratio] * 3) for ratio in (1.49, 1.6))
    assert disturbances([cell("elu", steady), cell("elu", steady)]) == ["", ""]
    assert disturbances([cell("elu", steady), cell("elu", swinging)]) == ["", NOT_QUIET]

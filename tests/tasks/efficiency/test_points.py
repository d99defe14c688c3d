"""Tests of tasks/efficiency/points.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest

from hedgebench.adapters.base import Adapter, UnsupportedError
from hedgebench.results.record import Status
from hedgebench.tasks.base import Row
from hedgebench.tasks.efficiency.points import (
    Point,
    Points,
    climb,
    model_at,
    point_of_mode,
    run_points,
    search_largest_batch,
)


def answered(points: Points, status_of: Callable[[Point], Status]) -> list[Point]:
    """The points that are given when each has the status that `status_of` says."""
    seen: list[Point] = []
    try:
        point = next(points)
        while True:
            seen.append(point)
            point = points.send(point.row(status_of(point), {}))
    except StopIteration:
        return seen


def test_a_climb_goes_from_short_to_long() -> None:
    points = answered(climb("prefill", (8, 2, 4), lambda length: 16 // length), lambda _: "ok")
    assert [(point.seq_len, point.batch_size) for point in points] == [(2, 8), (4, 4), (8, 2)]


@pytest.mark.parametrize(
    ("status", "expected"), [("oom", [2, 4]), ("timeout", [2, 4]), ("unsupported", [2, 4, 8]), ("error", [2, 4, 8])]
)
def test_only_what_gets_worse_with_length_ends_a_climb(status: Status, expected: list[int]) -> None:
    def status_of(point: Point) -> Status:
        return status if point.seq_len >= 4 else "ok"

    assert [point.seq_len for point in answered(climb("prefill", (2, 4, 8), lambda _: 1), status_of)] == expected
    past = answered(climb("prefill", (2, 4, 8), lambda _: 1, past_failures=True), status_of)
    assert [point.seq_len for point in past] == [2, 4, 8]


@pytest.mark.parametrize("most", [1, 2, 7, 64, 100])
@pytest.mark.parametrize("capacity", [0, 1, 2, 3, 13, 64, 99])
def test_the_largest_batch_is_found_for_every_capacity(most: int, capacity: int) -> None:
    points = answered(
        search_largest_batch("train", 8, most), lambda point: "ok" if point.batch_size <= capacity else "oom"
    )
    measured = [point.batch_size for point in points if point.role == "largest"]
    assert measured == ([min(most, capacity)] if capacity else [])
    probes = [point.batch_size for point in points if point.role == "probe"]
    assert len(probes) == len(set(probes)) <= 14
    assert max(probes) <= most


def test_limits_are_rows_and_mistakes_pass() -> None:
    def measure(point: Point) -> Row:
        if point.seq_len == 4:
            raise MemoryError("too long")
        return {"samples_ms": [1.0]}

    rows = run_points(climb("prefill", (2, 4, 8), lambda _: 3), measure)
    assert [(row["seq_len"], row["batch_size"], row["status"]) for row in rows] == [(2, 3, "ok"), (4, 3, "oom")]
    assert rows[0]["samples_ms"] == [1.0]
    assert rows[1]["message"] == "MemoryError: too long"

    def mistaken(point: Point) -> Row:
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        run_points(climb("prefill", (2,), lambda _: 3), mistaken)


def test_the_name_of_a_mode_says_what_it_is_measured_on() -> None:
    assert point_of_mode("layer_train", 8, 1).subject == "layer"
    assert point_of_mode("train", 8, 1).subject == "model"
    with pytest.raises(UnsupportedError, match="attention layer alone"):
        model_at(point_of_mode("layer_train", 8, 1), cast(Adapter, None))


def test_points_of_a_cell_have_names_of_their_own() -> None:
    points = [*answered(climb("prefill", (8, 16), lambda _: 1), lambda _: "ok")]
    points += answered(search_largest_batch("prefill", 8, 4), lambda _: "ok")
    assert len({point.name for point in points}) == len(points)

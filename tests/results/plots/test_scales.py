"""Tests of results/plots/scales.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import pytest

from hedgebench.results.plots import draw
from hedgebench.results.plots.scales import set_cost_axis, set_factor_axis, set_length_axis, set_score_axis
from hedgebench.results.record import Metric, Record
from hedgebench.results.tables.aggregate import leaderboard_rows
from hedgebench.results.tables.row import Row

MakeRecord = Callable[..., Record]


def drawn(values: Sequence[float], which: Literal["x", "y"] = "y") -> Any:
    (axes,) = draw.new_figure(4.0, 3.0)[1]
    places = list(range(1, len(values) + 1))
    axes.plot(*((places, values) if which == "y" else (values, places)), marker="o")
    axes.margins(0.2)
    return axes


def ticks(axes: Any, which: Literal["x", "y"] = "y") -> list[str]:
    """The labels that are seen, after drawing."""
    axes.figure.draw_without_rendering()
    axis = getattr(axes, f"{which}axis")
    low, high = axis.get_view_interval()
    return [tick.label1.get_text() for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]


def overlaps(axes: Any, which: Literal["x", "y"]) -> list[str]:
    """Labels of an axis that stand on the one before them."""
    axes.figure.draw_without_rendering()
    axis = getattr(axes, f"{which}axis")
    low, high = axis.get_view_interval()
    seen = [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high and t.label1.get_text()]
    boxes = sorted((label.get_window_extent() for label in seen), key=lambda box: (box.x0, box.y0))
    return [str(other) for box, other in pairwise(boxes) if box.overlaps(other)]


@pytest.mark.parametrize("values", [[3e6, 4e6, 5e6], [1e3, 5e5, 3e9], [2.0**20, 2.0**21], [7.0, 7.0], [0.0, 3e5]])
@pytest.mark.parametrize("which", ["x", "y"])
def test_bytes_have_binary_prefixes_and_no_label_stands_on_another(
    values: list[float], which: Literal["x", "y"]
) -> None:
    axes = drawn(values, which)
    set_cost_axis(axes, which, values, "bytes")
    labels = ticks(axes, which)
    assert len(labels) > 1
    assert all(label.split()[-1] in ("B", "KiB", "MiB", "GiB") for label in labels), labels
    assert overlaps(axes, which) == []


@pytest.mark.parametrize("values", [[1.1, 1.9, 3.0], [2.0, 9.0], [0.02, 13.0, 40_000.0], [5e9, 3e11]])
@pytest.mark.parametrize("which", ["x", "y"])
def test_times_are_spelled_without_powers_and_do_not_overlap(values: list[float], which: Literal["x", "y"]) -> None:
    axes = drawn(values, which)
    set_cost_axis(axes, which, values, "ms")
    labels = ticks(axes, which)
    assert len(labels) > 1
    assert not any("10^" in label for label in labels)
    assert overlaps(axes, which) == []


def test_an_axis_of_rates_never_begins_below_zero() -> None:
    axes = drawn([900.0, 100.0])
    axes.set_ylim(-200, 1000)
    set_cost_axis(axes, "y", [900.0, 1000.0], "tokens/s")
    assert not any(label.startswith("\N{MINUS SIGN}") for label in ticks(axes))


def score_rows(make_record: MakeRecord, *values: float, metric: str = "accuracy") -> list[Row]:
    records = [
        make_record(f"model{i}", metrics=(Metric(metric, value, "1", True, 0.01, 9),)) for i, value in enumerate(values)
    ]
    return leaderboard_rows(records)


def test_fractions_stay_within_0_and_1_and_correlations_need_not(make_record: MakeRecord) -> None:
    axes = drawn([0.02, 0.99])
    set_score_axis(axes, "y", score_rows(make_record, 0.02, 0.99))
    assert all(0 <= float(label) <= 1 for label in ticks(axes))
    signed = drawn([0.02, 0.99])
    set_score_axis(signed, "y", score_rows(make_record, 0.02, 0.99, metric="matthews"))
    assert signed.get_ylim()[0] < -0.1


def test_lengths_that_are_close_have_ticks_without_labels(make_record: MakeRecord) -> None:
    lengths = [256, 512, 1024, 1536, 2048, 3072, 4096, 5120, 6144, 7168, 8192, 10240, 12288, 16384]
    points = tuple(Metric("prefill_ms", 1.0, "ms", False, None, 1, {"seq_len": n}) for n in lengths)
    rows = leaderboard_rows([make_record("elu", "throughput", metrics=points)])
    axes = drawn([float(n) for n in lengths], "x")
    set_length_axis(axes, rows)
    labels = ticks(axes, "x")
    assert labels[0] == "16384"
    assert len(labels) == len(lengths)
    assert 4 <= sum(map(bool, labels)) <= 9
    assert overlaps(axes, "x") == []


@pytest.mark.parametrize("factors", [(0.9, 1.1), (0.05, 1.0, 12.0), (1e-4, 1.0), (0.4, 2.0)])
def test_factors_have_ticks_that_can_be_read(factors: tuple[float, ...]) -> None:
    axes = drawn(factors, "x")
    set_factor_axis(axes, factors)
    labels = ticks(axes, "x")
    assert "1×" in labels
    assert overlaps(axes, "x") == []

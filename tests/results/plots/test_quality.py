"""Tests of results/plots/quality.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from hedgebench.results.plots.draw import Plot
from hedgebench.results.plots.make import make_plots
from hedgebench.results.record import Metric, Record

MakeRecord = Callable[..., Record]


def size_plots(records: list[Record]) -> list[Plot]:
    return [plot for plot in make_plots(records) if plot.kind == "size"]


def panels(plot: Plot) -> dict[str, list[float]]:
    """The models' places along each panel's axis."""
    drawn: list[Any] = list(plot.figure.axes)
    return {
        axes.get_xlabel().partition("\n")[0]: [float(bars.lines[0].get_xdata()[0]) for bars in axes.containers]
        for axes in drawn
    }


def test_quality_is_drawn_against_budgets_as_means_over_seeds(make_trained: MakeRecord) -> None:
    seeds = [make_trained("elu", steps, 2.0 * steps, 64, seed=seed) for seed, steps in enumerate((200, 400))]
    (plot,) = size_plots([make_trained("softmax", 100, 50.0, 256), *seeds])
    assert panels(plot) == {
        "recurrent state": [256, 64],
        "training tokens": [10_000, 30_000],
        "training time [s]": [50, 600],
    }
    assert "the same for all: parameters (" in plot.title
    tokens: Any = plot.figure.axes[1]
    assert tokens.containers[1].has_xerr
    ends = tokens.containers[1].lines[2][0].get_segments()[0][:, 0]
    assert ends.tolist() == [pytest.approx(20_000), pytest.approx(40_000)]


def test_what_is_the_same_for_all_models_has_no_panel(make_trained: MakeRecord) -> None:
    (plot,) = size_plots([make_trained(model, 100, 50.0, size) for model, size in (("softmax", 256), ("elu", 64))])
    assert list(panels(plot)) == ["recurrent state"]
    same = "parameters, training tokens, training time [s]"
    assert plot.title.startswith(f"wikitext2: quality against size and budget; the same for all: {same} (")
    assert size_plots([make_trained(model, 100, 50.0, 64) for model in ("softmax", "elu")]) == []


def test_a_score_that_is_not_finite_is_told_and_leaves_the_axis_alone(
    make_record: MakeRecord, make_metric: Callable[..., Metric]
) -> None:
    values = {"softmax": 20.0, "elu": math.inf, "relu": math.nan, "hedgehog": 21.0}
    records = [make_record(model, metrics=(make_metric(value=value, stderr=None),)) for model, value in values.items()]
    (plot,) = (plot for plot in make_plots(records) if plot.kind == "quality")
    axes: Any = plot.figure.axes[0]
    assert {text.get_text(): text.get_position()[1] for text in axes.texts} == {"inf": 1, "nan": 3}
    assert axes.get_xscale() == "linear"
    assert len(axes.containers) == 2

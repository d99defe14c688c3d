"""Tests of results/plots/overview.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hedgebench.results.plots.draw import Plot
from hedgebench.results.plots.make import make_plots
from hedgebench.results.record import Metric, Record

MakeRecord = Callable[..., Record]
QUALITY = {"softmax": 0.99, "hedgehog": 0.98, "elu": 0.31}
TIMES = {"softmax": 40.0, "hedgehog": 10.0, "elu": 5.0}


def records_of(make_record: MakeRecord, scale: str = "smoke", paces: tuple[float, ...] = (1.0, 1.0)) -> list[Record]:
    """Accuracies of three models on one task, and their times of prefill at two lengths, at `scale`."""
    pace = Metric("pace_ms", 1.0, "ms", None, 0.01, 2, {"work": "compute"}, samples=paces)
    return [
        record
        for model, accuracy in QUALITY.items()
        for record in (
            make_record(
                model,
                "recall",
                metrics=(
                    Metric("accuracy", accuracy, "1", True, 0.01, 100),
                    Metric("chance", 0.125, "1", None, None, 100),
                    Metric("state_bytes", 1e3, "bytes", None, None, 1),
                ),
            ),
            make_record(
                model,
                "throughput",
                recipe="zero-shot",
                scale=scale,
                main_metric="longest",
                metrics=(
                    *(Metric("prefill_ms", TIMES[model] * n / 512, "ms", False, 0.4, 3, {"seq_len": n})
                      for n in (256, 512)),
                    pace,
                ),
            ),
        )
    ]  # fmt: skip


def overview(records: list[Record]) -> Plot:
    (plot,) = (plot for plot in make_plots(records) if plot.kind == "overview")
    return plot


def points(plot: Plot, panel: int = 0) -> list[tuple[float, float]]:
    drawn: Any = plot.figure.axes[panel].containers
    return [tuple(bars.lines[0].get_xydata()[0]) for bars in drawn]


def test_costs_are_factors_of_softmax_at_the_longest_length(make_record: MakeRecord) -> None:
    plot = overview(records_of(make_record))
    assert points(plot) == [(1.0, 0.99), (pytest.approx(0.125), 0.31), (pytest.approx(0.25), 0.98)]
    drawn: Any = plot.figure.axes[0].containers
    spans = [bars.lines[2][0].get_segments()[0][:, 0] for bars in drawn]
    errors = [0.0, 0.125 * math.hypot(0.4 / 5, 0.4 / 40), 0.25 * math.hypot(0.4 / 10, 0.4 / 40)]
    assert [(right - left) / 2 for left, right in spans] == pytest.approx(errors)
    axes: Any = plot.figure.axes[0]
    assert axes.get_xlabel() == "time of prefill at seq_len=512, × softmax's\n(gpt at scale smoke)"
    assert "chance" in {text.get_text() for text in axes.texts}


def test_a_cost_of_another_scale_is_taken_if_there_is_no_other_and_says_so(make_record: MakeRecord) -> None:
    axes: Any = overview(records_of(make_record, scale="small")).figure.axes[0]
    assert axes.get_xlabel().endswith("(gpt at scale small)")


def test_a_cost_that_was_measured_under_other_conditions_is_no_factor(make_record: MakeRecord) -> None:
    records = [
        replace(record, peer_key="two threads" if record.model == "elu" else "one thread")
        if record.task == "throughput"
        else record
        for record in records_of(make_record)
    ]
    assert points(overview(records)) == [(1.0, 0.99), (pytest.approx(0.25), 0.98)]


def test_a_machine_that_was_not_quiet_is_told(make_record: MakeRecord) -> None:
    axes: Any = overview(records_of(make_record, paces=(1.0, 9.0, 30.0))).figure.axes[0]
    assert axes.get_xlabel().endswith("(machine was not quiet: times are not compared)")


def test_without_a_measured_cost_the_state_of_decoding_is_the_cost(make_record: MakeRecord) -> None:
    scores = [record for record in records_of(make_record) if record.task == "recall"]
    axes: Any = overview(scores).figure.axes[0]
    assert axes.get_xlabel() == "state kept while decoding, × softmax's"


def test_lower_scores_that_are_better_stand_higher(make_record: MakeRecord) -> None:
    sized = (Metric("perplexity", 20.0, "1", False, 0.1, 9), Metric("state_bytes", 1e3, "bytes", None, None, 1))
    axes: Any = overview([make_record(model, metrics=sized) for model in ("softmax", "elu")]).figure.axes[0]
    bottom, top = axes.get_ylim()
    assert bottom > top


def test_without_softmax_there_is_no_such_picture(make_record: MakeRecord) -> None:
    others = [record for record in records_of(make_record) if record.model != "softmax"]
    assert not any(plot.kind == "overview" for plot in make_plots(others))


def test_panels_of_one_task_say_how_they_differ(make_record: MakeRecord) -> None:
    records = records_of(make_record)
    alone = [axes.get_title(loc="left") for axes in overview(records).figure.axes]
    again = [
        make_record(r.model, "recall", recipe="scratch-conversion", metrics=r.metrics)
        for r in records
        if r.task == "recall"
    ]
    both = [axes.get_title(loc="left") for axes in overview([*records, *again]).figure.axes]
    assert alone == ["recall"]
    assert sorted(title.split(", ")[-1] for title in both) == sorted([f"{records[0].recipe})", "scratch-conversion)"])

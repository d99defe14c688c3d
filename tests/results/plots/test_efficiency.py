"""Tests of results/plots/efficiency.py."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from hedgebench.results.plots.draw import Plot
from hedgebench.results.plots.efficiency import DEVICE_PEAKS, pareto_front
from hedgebench.results.plots.make import make_plots
from hedgebench.results.record import Metric, Record, Scalar

MakeRecord = Callable[..., Record]
LENGTHS = (256, 512, 1024, 2048)


def sweep(
    name: str, unit: str, value_at: Callable[[int], float | None], more: Mapping[str, Scalar] | None = None
) -> list[Metric]:
    found = []
    for n in LENGTHS:
        value = value_at(n)
        at = {"seq_len": n, "batch_size": 1, **(more or {})}
        error = 0.0 if unit == "ms" else None
        found.append(Metric(name, value, unit, False, error, 3, at, "oom" if value is None else "ok"))
    return found


def peaks_of_machine(products: str) -> list[Metric]:
    return [
        Metric("machine_gemm_flops_per_s", 1e11, "flop/s", None, None, 1, {"dtype": products}),
        Metric("machine_copy_bytes_per_s", 1e10, "bytes/s", None, None, 1, {"dtype": products}),
    ]


def measured(make_record: MakeRecord, model: str, ms_at: Callable[[int], float | None], **changes: Any) -> list[Record]:
    """Records of throughput, memory and a task of quality, with peaks of the machine."""
    pace = Metric("pace_ms", 1.0, "ms", None, 0.01, 2, {"work": "compute"}, samples=(1.0, 1.0))
    machine = [*peaks_of_machine(changes.get("environment", {}).get("dtype", "float32")), pace]
    layer = [
        *sweep("layer_prefill_ms", "ms", ms_at),
        *sweep("layer_prefill_flops", "flops", lambda n: 1e4 * n),
        *sweep("layer_prefill_traffic_bytes", "bytes", lambda n: 1e3 * n),
    ]
    peaks = sweep("peak_allocated_bytes", "bytes", lambda n: 1e3 * n, {"mode": "prefill"})
    return [
        make_record(
            model,
            "throughput",
            recipe="zero-shot",
            metrics=(*sweep("prefill_ms", "ms", ms_at), *layer, *machine),
            main_metric="longest_prefill_tokens_per_s",
            **changes,
        ),
        make_record(
            model,
            "memory",
            recipe="zero-shot",
            metrics=tuple(peaks),
            main_metric="longest_prefill_peak_bytes",
            **changes,
        ),
        make_record(model, "wikitext2", metrics=(Metric("perplexity", 20.0 + len(model), "1", False, 0.1, 9),)),
    ]


@pytest.fixture
def records(make_record: MakeRecord) -> list[Record]:
    return [
        *measured(make_record, "softmax", lambda n: n**2 / 1000 if n < 2048 else None),
        *measured(make_record, "elu", lambda n: 0.7 * n),
    ]


def by_name(plots: Iterable[Plot]) -> dict[str, Plot]:
    return {plot.name.split("-throughput")[0].split("-wikitext2")[0]: plot for plot in plots}


def texts(plot: Plot) -> list[str]:
    from matplotlib.text import Text

    found: Any = plot.figure.findobj(Text)
    return [text.get_text() for text in found]


def lines(plot: Plot) -> list[list[list[float]]]:
    """The points of every line of a plot with one panel."""
    drawn: Any = plot.figure.axes[0].lines
    return [line.get_xydata().tolist() for line in drawn]


def test_a_store_of_quality_and_efficiency_has_every_plot(records: list[Record]) -> None:
    names = by_name(make_plots(records)).keys()
    assert {"figure6", "roofline-layer_prefill", "pareto-prefill_ms", "pareto-peak_allocated_bytes"} <= names


def test_the_efficiency_figure_has_time_and_memory_crossings_and_what_ran_out(records: list[Record]) -> None:
    figure = by_name(make_plots(records))["figure6"]
    assert len(figure.figure.axes) == 3
    assert {"700", "no value: OOM", "softmax", "elu"} <= set(texts(figure))


def test_quality_is_joined_with_the_cost_of_the_same_model_at_the_longest_common_length(records: list[Record]) -> None:
    plot = by_name(make_plots(records))["pareto-prefill_ms"]
    assert plot.title == "wikitext2: quality against prefill_ms at seq_len=1024 (gpt, smoke)"
    drawn = {points[0][0] for points in lines(plot) if len(points) == 1}
    assert drawn == {1024**2 / 1000, 0.7 * 1024}


def test_quality_against_times_of_a_machine_that_was_not_quiet_says_so(records: list[Record]) -> None:
    def slowed(record: Record) -> Record:
        pace = Metric(
            "pace_ms",
            1.0,
            "ms",
            None,
            0.01,
            2,
            {"work": "compute"},
            samples=(9.0 if record.model == "elu" else 1.0,) * 2,
        )
        return replace(record, metrics=(*record.metrics, pace))

    quiet, busy = (by_name(make_plots(made))["pareto-prefill_ms"] for made in (records, list(map(slowed, records))))
    assert not any("not quiet" in text for text in texts(quiet))
    assert any("machine was not quiet: times are not compared" in text for text in texts(busy))


def test_a_model_of_another_scale_is_not_joined(records: list[Record], make_record: MakeRecord) -> None:
    paper = [r for r in records if r.task == "wikitext2"] + [
        changed for model in ("softmax", "elu")
        for changed in measured(make_record, model, lambda n: float(n), scale="paper")[:2]
    ]  # fmt: skip
    assert not any(name.startswith("pareto") for name in by_name(make_plots(paper)))


def test_points_lie_on_the_roofline_where_their_counts_put_them(records: list[Record]) -> None:
    plot = by_name(make_plots(records))["roofline-layer_prefill"]
    flops_per_s = 1e3 * 1e4 * 256 / (256**2 / 1000)
    assert any(points[0] == pytest.approx([10.0, flops_per_s]) for points in lines(plot))
    assert any("matrix product and copy measured in the same run" in text for text in texts(plot))


def test_where_the_machine_was_not_measured_there_is_no_roof(records: list[Record]) -> None:
    unmeasured = [
        replace(record, metrics=tuple(m for m in record.metrics if not m.name.startswith("machine_")))
        for record in records
    ]
    assert not [plot.name for plot in make_plots(unmeasured) if plot.name.startswith("roofline")]


def test_a_known_device_has_the_roof_of_its_datasheet(make_record: MakeRecord) -> None:
    environment = {"gpu": "NVIDIA H200", "dtype": "bfloat16"}
    made = measured(make_record, "softmax", lambda n: float(n), environment=environment)
    plot = by_name(make_plots(made))["roofline-layer_prefill"]
    peaks = max(y for points in lines(plot) for _, y in points)
    assert peaks == 989.5e12
    assert any("datasheet" in text for text in texts(plot))
    assert all(roof.source and roof.bytes_per_s > 1e12 for peaks in DEVICE_PEAKS.values() for roof in peaks.values())


@pytest.fixture
def kernels(make_record: MakeRecord) -> Callable[[str], Plot]:
    """The roofline of distillation of two contenders in two sweeps, whose products are made of something."""

    def make(products: str) -> Plot:
        counts = [("flops", "flops", 1e7), ("traffic_bytes", "bytes", 1e7)]
        metrics = [
            metric
            for contender, ms in (("hedgehog", 1.0), ("quadratic", 4.0))
            for head_dim in (64, 128)
            for name, unit, value in (("ms", "ms", ms / head_dim), *counts)
            for metric in sweep(
                f"distillation_{name}", unit, partial(operator.mul, value),
                {"contender": contender, "sweep": f"sweep{head_dim}"},
            )
        ]  # fmt: skip
        record = make_record(
            "hedgehog:map=softmax",
            "kernels/distillation",
            metrics=(*peaks_of_machine(products), *metrics),
            main_metric="longest_tokens_per_s",
            environment={"gpu": "NVIDIA H200", "dtype": "bfloat16"},
        )
        (plot,) = (plot for plot in make_plots([record]) if plot.name.startswith("roofline"))
        return plot

    return make


def test_kernels_have_a_roofline_with_a_line_for_each_contender_and_sweep(kernels: Callable[[str], Plot]) -> None:
    plot = kernels("bfloat16")
    assert plot.name.startswith("roofline-distillation-kernels-distillation")
    drawn = [points for points in lines(plot) if len(points) == len(LENGTHS)]
    assert len(drawn) == 4
    achieved = {(points[0][0], round(points[0][1])) for points in drawn}
    assert achieved == {(1.0, 640e9), (1.0, 1280e9), (1.0, 160e9), (1.0, 320e9)}
    legend: Any = plot.figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["roof", "hedgehog", "quadratic"]


def test_the_roof_is_that_of_what_products_are_made_of(kernels: Callable[[str], Plot]) -> None:
    tops = {
        products: max(points[-1][1] for points in lines(kernels(products)) if len(points) == 3)
        for products in ("bfloat16", "tf32x3")
    }
    assert tops == {"bfloat16": 989.5e12, "tf32x3": 1e11}  # the second is in no datasheet, and measured


def test_the_front_holds_what_no_other_beats_in_both() -> None:
    points = [(1.0, 30.0), (2.0, 20.0), (3.0, 25.0), (4.0, 10.0), (4.0, 12.0)]
    assert pareto_front(points, higher_is_better=False) == [(1.0, 30.0), (2.0, 20.0), (4.0, 10.0)]
    assert pareto_front(points, higher_is_better=True) == [(1.0, 30.0)]

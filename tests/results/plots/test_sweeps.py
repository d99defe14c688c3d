"""Tests of results/plots/sweeps.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from hedgebench.results.plots import draw
from hedgebench.results.plots.draw import Plot
from hedgebench.results.plots.make import make_plots
from hedgebench.results.plots.scales import set_wide_axis
from hedgebench.results.record import Metric, Record, Scalar

MakeRecord = Callable[..., Record]


def test_a_line_is_shaded_by_the_spread_of_its_samples(make_record: MakeRecord) -> None:
    at: list[Mapping[str, Scalar]] = [{"seq_len": n, "batch_size": 1} for n in (256, 512)]
    metrics = [
        Metric(f"prefill_ms{end}", value * float(where["seq_len"] or 0), "ms", better, None, 5, where)
        for end, value, better in (("", 1.0, False), ("_p20", 0.5, None), ("_p80", 3.0, None))
        for where in at
    ]
    (plot,) = make_plots([make_record("elu", "throughput", metrics=metrics)])
    (shade,) = plot.figure.axes[0].collections[-1:]
    corners = {(float(x), float(y)) for x, y in np.asarray(shade.get_paths()[0].vertices)}
    assert {(256.0, 128.0), (256.0, 768.0), (512.0, 256.0), (512.0, 1536.0)} <= corners


@pytest.mark.parametrize("values", [(1.0, 1.5), (1.0, 100.0)])
def test_failures_stand_in_a_band_just_above_the_values(make_record: MakeRecord, values: tuple[float, float]) -> None:
    found = [*((n, value, "ok") for n, value in zip((256, 512), values, strict=True)), (1024, None, "oom")]
    metrics = [
        Metric("prefill_ms", value, "ms", False, None, 3, {"seq_len": n, "batch_size": 1}, status)  # type: ignore[arg-type]
        for n, value, status in found
    ]
    (plot,) = make_plots([make_record("elu", "throughput", metrics=metrics)])
    axes = plot.figure.axes[0]
    (band,) = axes.patches
    on_screen = axes.transData.transform((512, values[1]))
    assert 0.8 < axes.transAxes.inverted().transform(on_screen)[1] < 1 - band.get_height() < 1  # type: ignore[attr-defined]


def sweeps(make_record: MakeRecord, *named: tuple[str, str], error: float = 0.0) -> list[Plot]:
    """The plots of two models whose costs cross at 512."""
    records = []
    for model, slope, pace in (("softmax", 1.0, 1.0), ("elu", 0.5, 128.0)):
        points = [
            Metric(name, pace + slope * n / 2, unit, False, error or None, 3, {"seq_len": n, "batch_size": 1})
            for name, unit in named
            for n in (128, 256, 1024, 2048)
        ]
        steady = Metric("pace_ms", 1.0, "ms", None, 0.01, 2, {"work": "compute"}, samples=(1.0, 1.0))
        records.append(make_record(model, "throughput", metrics=[*points, steady]))
    return make_plots(records)


def words(plot: Plot) -> set[str]:
    from matplotlib.text import Text

    found: Any = plot.figure.findobj(Text)
    return {text.get_text() for text in found}


def test_a_rate_is_not_drawn_beside_its_time(make_record: MakeRecord) -> None:
    plots = sweeps(make_record, ("prefill_ms", "ms"), ("prefill_tokens_per_s", "tokens/s"))
    assert [plot.title.split(",")[0] for plot in plots] == ["throughput: prefill_ms"]
    (alone,) = sweeps(make_record, ("prefill_tokens_per_s", "tokens/s"))
    assert alone.title.startswith("throughput: prefill_tokens_per_s")


@pytest.mark.parametrize(("error", "is_sure"), [(0.1, True), (60.0, False)])
def test_a_crossing_that_noise_may_have_made_has_no_label(make_record: MakeRecord, error: float, is_sure: bool) -> None:
    (plot,) = sweeps(make_record, ("prefill_ms", "ms"), error=error)
    labels = {word for word in words(plot) if word.isdigit()} - {"128", "256", "1024", "2048"}
    assert bool([label for label in labels if 400 < int(label) < 650]) == is_sure


def test_layers_are_drawn_with_what_each_costs_and_with_those_that_stay(make_record: MakeRecord) -> None:
    metrics = [
        *(Metric("layer_cost", cost, "1", False, 0.1, 4, {"layer": i}) for i, cost in enumerate((0.5, 2.0, 0.1))),
        *(
            Metric("perplexity_kept_layers", 20.0 - kept, "1", False, 0.2, 4, {"kept_layers": kept})
            for kept in (3, 0, 2, 1)
        ),
    ]
    (plot,) = (p for p in make_plots([make_record("none", "layer_sensitivity", metrics=metrics)]) if p.kind == "layers")
    costs, curve = (
        next(line for line in axes.lines if len(np.asarray(line.get_xydata())) > 2) for axes in plot.figure.axes
    )
    assert np.asarray(costs.get_xydata()).tolist() == [[0.0, 0.5], [1.0, 2.0], [2.0, 0.1]]
    assert np.asarray(curve.get_xydata()).tolist() == [[0.0, 20.0], [1.0, 19.0], [2.0, 18.0], [3.0, 17.0]]
    assert {"layer that is swapped alone", "layers that stay softmax, the costliest first"} <= words(plot)


@pytest.mark.parametrize(
    ("values", "scale"),
    [((3.0, 4.0, 5.0), "linear"), ((3.0, 4.0, 1e4), "log"), ((-0.1, 0.2, 0.1, 1e4), "symlog"), ((0.0, 0.0), "linear")],
)
def test_one_layer_that_costs_a_thousand_times_the_others_does_not_hide_them(
    values: tuple[float, ...], scale: str
) -> None:
    (axes,) = draw.new_figure(3.0, 3.0)[1]
    set_wide_axis(axes, values)
    assert axes.get_yscale() == scale

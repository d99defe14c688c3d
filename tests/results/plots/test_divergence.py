from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from hedgebench.results.plots.make import make_plots, svg_plots, write_plots
from hedgebench.results.record import CurvePoint, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MakeRecord = Callable[..., Record]

WHERE = "wikitext2-gpt-scratch-smoke"


def state(step: int, values: Sequence[Sequence[float]]) -> tuple[CurvePoint, ...]:
    return tuple(
        CurvePoint(step, "validation", f"attention_kl/layer {layer}/head {head}", value)
        for layer, heads in enumerate(values)
        for head, value in enumerate(heads)
    )


def plots(records: list[Record]) -> dict[str, Figure]:
    return {plot.name.removesuffix(f"-{WHERE}"): plot.figure for plot in make_plots(records)}


def lines(axes: Axes) -> list[tuple[str, list[float]]]:
    """Style and heights of the lines that have points in the data's coordinates."""
    return [
        (str(line.get_linestyle()), [float(y) for y in np.asarray(line.get_ydata(), float)])
        for line in axes.get_lines()
        if line.get_transform() == axes.transData
    ]


def meshes(figure: Figure) -> list[np.ndarray]:
    return [
        np.ma.filled(np.asarray(mesh.get_array(), float), np.nan)
        for axes in figure.axes
        if axes.get_label() != "<colorbar>"
        for mesh in axes.collections
    ]


def test_layers_are_dashed_before_distillation_and_solid_after(make_record: MakeRecord) -> None:
    curves = state(0, [[4.0, 6.0], [1.0, 3.0]]) + state(9, [[1.0, 2.0], [0.5, 0.5]])
    (axes,) = plots([make_record("hedgehog", curves=curves)])["divergence"].axes
    assert lines(axes) == [("--", [5.0, 2.0]), ("-", [1.5, 0.5])]
    (band,) = axes.collections
    heights = np.asarray(band.get_paths()[0].vertices)[:, 1]
    assert (heights.min(), heights.max()) == (0.5, 2.0)
    assert axes.get_ylabel() == "KL divergence from softmax attention [nats]"


def test_means_far_apart_are_drawn_on_a_logarithmic_scale(make_record: MakeRecord) -> None:
    def scale(after: float) -> str:
        curves = state(0, [[4.0], [5.0]]) + state(9, [[after], [1.0]])
        return plots([make_record("hedgehog", curves=curves)])["divergence"].axes[0].get_yscale()

    assert [scale(after) for after in (1.0, 0.01, 0.0, -1e-9, math.inf)] == ["linear", "log"] + ["linear"] * 3


def test_models_that_are_not_distilled_have_a_spread_only_where_no_other_model_is(make_record: MakeRecord) -> None:
    elu = make_record("elu", curves=state(0, [[4.0, 6.0], [1.0, 3.0]]))
    hedgehog = make_record("hedgehog", curves=state(0, [[4.0, 6.0]] * 2) + state(5, [[1.0, 2.0]] * 2))
    assert len(plots([elu])["divergence"].axes[0].collections) == 1
    assert len(plots([elu, hedgehog])["divergence"].axes[0].collections) == 1


def test_values_that_are_not_finite_are_marked_and_leave_a_gap(make_record: MakeRecord) -> None:
    curves = state(0, [[4.0, 6.0], [1.0, math.inf], [1.0, math.nan], [2.0, 2.0]])
    figure = plots([make_record("elu", curves=curves)])["divergence"]
    (axes,) = figure.axes
    assert np.array_equal(lines(axes)[0][1], [5.0, np.nan, np.nan, 2.0], equal_nan=True)
    (crosses,) = (line for line in axes.get_lines() if line.get_marker() == "x")
    assert list(np.asarray(crosses.get_xdata())) == [1, 2]
    assert "not finite" in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("value", [0.5, 0.0, math.nan, math.inf])
def test_a_single_layer_with_a_single_head_can_be_drawn(make_record: MakeRecord, value: float) -> None:
    records = [make_record("hedgehog", curves=state(0, [[1.0]]) + state(3, [[value]]))]
    assert [drawing.title for drawing in svg_plots(records)][1:] == [
        "wikitext2: attention divergence by layer (gpt, scratch, smoke)",
        "wikitext2: attention divergence by head (gpt, scratch, smoke)",
    ]


def test_nothing_finite_at_all_can_be_drawn(make_record: MakeRecord) -> None:
    assert len(svg_plots([make_record("hedgehog", curves=state(0, [[math.nan, math.inf]]))])) == 3


def test_a_single_layer_shows_its_spread_as_a_bar(make_record: MakeRecord) -> None:
    (axes,) = plots([make_record("elu", curves=state(0, [[1.0, 4.0]]))])["divergence"].axes
    (bar,) = axes.collections
    assert np.asarray(bar.get_paths()[0].vertices).tolist() == [[0.0, 1.0], [0.0, 4.0]]


def test_heads_stand_before_and_after_in_the_same_colours(make_record: MakeRecord) -> None:
    before, after = [[4.0, 6.0], [1.0, 3.0], [2.0, 2.0]], [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]
    figure = plots([make_record("hedgehog", curves=state(0, before) + state(9, after))])["heads"]
    left, right, _ = figure.axes
    assert [axes.get_title(loc="left") for axes in (left, right)] == [
        "hedgehog, before distillation",
        "hedgehog, after distillation",
    ]
    first, second = (axes.collections[0] for axes in (left, right))
    assert first.norm is second.norm
    np.testing.assert_array_equal(meshes(figure)[0].reshape(2, 3), np.transpose(before))
    np.testing.assert_array_equal(meshes(figure)[1].reshape(2, 3), np.transpose(after))


def test_missing_heads_and_a_missing_state_are_told_from_values(make_record: MakeRecord) -> None:
    figure = plots([make_record("elu", curves=state(0, [[4.0, 6.0], [1.0], [math.inf, 2.0]]))])["heads"]
    (mesh,) = meshes(figure)
    np.testing.assert_array_equal(mesh.reshape(2, 3), [[4.0, 1.0, np.nan], [6.0, np.nan, 2.0]])
    assert [text.get_text() for text in figure.axes[1].texts] == ["not distilled"]
    assert " ".join(str(figure.get_suptitle()).split()).endswith("grey: no finite value")


def test_at_most_eight_models_have_maps_and_those_that_were_distilled_come_first(make_record: MakeRecord) -> None:
    records = [make_record(f"model{i}", curves=state(0, [[1.0 + i, 2.0]])) for i in range(9)]
    records.append(make_record("zebra", curves=state(0, [[3.0, 2.0]]) + state(4, [[0.3, 0.2]])))
    figure = plots(records)["heads"]
    titles = [axes.get_title(loc="left") for axes in figure.axes[:-1:2]]
    assert titles == [f"{name}, before distillation" for name in ("zebra", *(f"model{i}" for i in range(7)))]
    assert "8 of 10 models" in figure.get_suptitle()


def test_names_are_drawn_as_they_are_and_no_image_is_embedded(make_record: MakeRecord, tmp_path: Path) -> None:
    curves = state(0, [[1.0, 2.0]] * 3) + state(7, [[0.01, 0.2]] * 3)
    for drawing in write_plots([make_record("<b>$x$", curves=curves)], tmp_path):
        assert "<image" not in drawing.svg
        assert "<b>" not in drawing.svg
    assert {path.stem for path in tmp_path.iterdir()} == {
        f"{kind}-{WHERE}" for kind in ("quality", "divergence", "heads")
    }


@pytest.mark.parametrize("lowest", [0.99, 0.3, 0.01, 1e-4, 1e-9, 1e-30])
def test_a_logarithmic_scale_has_ticks_and_not_too_many(make_record: MakeRecord, lowest: float) -> None:
    figures = plots([make_record("elu", curves=state(0, [[lowest, lowest], [10.0, 10.0]]))])
    for axis in (figures["divergence"].axes[0].yaxis, figures["heads"].axes[-1].yaxis):
        low, high = axis.get_view_interval()
        assert axis.get_scale() == "log"
        assert 3 <= sum(low <= tick <= high for tick in axis.get_majorticklocs()) <= 16

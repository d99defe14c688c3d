from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import pytest

from hedgebench.results.plots.make import make_plots, svg_plots
from hedgebench.results.record import CurvePoint, Record

MakeRecord = Callable[..., Record]

HEDGEHOG = ("teacher loss", "distill loss", "distill attention_kl", "finetune loss")


def curves(names: Iterable[str], value: float = 1.0) -> tuple[CurvePoint, ...]:
    return tuple(
        CurvePoint(step, split, name, value / step)
        for name in names
        for step in (1, 2)
        for split in ("train", "validation")
    )


def panels(records: list[Record]) -> list[str]:
    (figure,) = (plot.figure for plot in make_plots(records) if plot.name.startswith("curves"))
    return [axes.get_ylabel() for axes in figure.axes]


def test_stages_are_panels_in_the_order_they_ran(make_record: MakeRecord) -> None:
    records = [
        make_record("softmax", curves=curves(["teacher loss"])),
        make_record("elu", curves=curves(["teacher loss", "finetune loss"])),
        make_record("hedgehog", curves=curves(HEDGEHOG)),
    ]
    assert panels(records) == panels(records[::-1]) == list(HEDGEHOG)


def test_softmax_that_skips_distillation_does_not_put_fine_tuning_first(make_record: MakeRecord) -> None:
    records = [
        make_record("softmax", curves=curves(["lora loss"])),
        make_record("hedgehog", curves=curves(["distill loss", "lora loss"])),
    ]
    assert panels(records) == ["distill loss", "lora loss"]


def test_a_name_that_only_the_shorter_list_has_stands_behind_the_one_it_follows(make_record: MakeRecord) -> None:
    records = [
        make_record("a", curves=curves(["one", "two", "four"])),
        make_record("b", curves=curves(["two", "three"])),
        make_record("c", curves=curves(["zero"])),
    ]
    assert panels(records) == ["zero", "one", "two", "three", "four"]


@pytest.mark.parametrize(("splits", "width"), [(("train", "validation"), 1.7), (("train",), 0.9)])
def test_the_legend_shows_validation_where_there_is_any(
    make_record: MakeRecord, splits: tuple[str, ...], width: float
) -> None:
    drawn = tuple(point for point in curves(["loss"]) if point.split in splits)
    records = [make_record("softmax", curves=drawn), make_record("elu", curves=drawn)]
    (figure,) = (plot.figure for plot in make_plots(records) if plot.name.startswith("curves"))
    (legend,) = figure.legends
    assert [
        (text.get_text(), line.get_linewidth()) for text, line in zip(legend.texts, legend.get_lines(), strict=True)
    ] == [
        ("softmax", width),
        ("elu", width),
    ]


def test_curves_of_layers_and_heads_have_no_panel(make_record: MakeRecord) -> None:
    parts = [f"distill attention_kl/layer {i}" for i in range(30)]
    heads = [f"attention_kl/layer {i}/head {j}" for i in range(30) for j in range(9)]
    records = [make_record("hedgehog", curves=curves([*heads, *HEDGEHOG, *parts]))]
    assert panels(records) == list(HEDGEHOG)


def test_curves_of_parts_alone_make_no_figure_of_curves(make_record: MakeRecord) -> None:
    records = [make_record("hedgehog", curves=curves(["distill attention_kl/layer 0"]))]
    assert [plot.name.split("-")[0] for plot in make_plots(records)] == ["quality"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_can_be_drawn(make_record: MakeRecord, value: float) -> None:
    records = [make_record("elu", curves=curves(HEDGEHOG)), make_record("relu", curves=curves(HEDGEHOG[:1], value))]
    assert len(svg_plots(records)) == 2

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from hedgebench.results.plots.draw import to_svg
from hedgebench.results.plots.make import make_plots, write_plots
from hedgebench.results.record import Record
from hedgebench.results.report.write import write_report
from hedgebench.results.store import RunStore

from ..fidelity_rows import LAYERS, TOKENS, fidelity_record, measure_rows, sample_rows, samples_of, with_teacher

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MakeRecord = Callable[..., Record]

WHERE = "attention_fidelity-gpt-scratch-smoke"
ROWS = {"softmax": sample_rows(0.0), "elu": sample_rows(2.0, 0.1), "hedgehog": sample_rows(1.0, 0.8)}
KINDS = ("layers", "lengths", "maps", "products")


@pytest.fixture
def records(make_record: MakeRecord) -> list[Record]:
    return [
        fidelity_record(make_record, model, kl) for model, kl in (("softmax", 0.0), ("elu", 2.0), ("hedgehog", 1.0))
    ]


def figures(records: list[Record], **rows: Any) -> dict[str, Figure]:
    plots = make_plots(records, samples_of({**ROWS, **rows}))
    return {plot.name.removesuffix(f"-{WHERE}"): plot.figure for plot in plots}


def heights(axes: Axes) -> list[list[float]]:
    """Of the lines, without the caps of their errors and crosses."""
    lines = (line for line in axes.get_lines() if line.get_marker() not in ("x", "_", "|"))
    return [np.asarray(line.get_ydata(), float).tolist() for line in lines]


def test_layers_show_each_measure_and_softmax_s_entropy_dashed(records: list[Record]) -> None:
    divergence, entropy, monotonicity, overlap = figures(records)["layers"].axes
    assert heights(divergence) == [[3.0, 4.0], [2.0, 3.0]]
    assert [
        (line.get_linestyle(), values) for line, values in zip(entropy.get_lines(), heights(entropy), strict=True)
    ] == [
        ("--", [1.0, 1.0]),
        ("-", [2.0, 3.0]),
    ] * 3
    assert (heights(monotonicity), heights(overlap)) == ([[0.5, 0.5]] * 2, [[0.25, 0.25]] * 2)
    assert divergence.get_ylabel() == "KL from softmax [nats]"


def test_layers_show_the_divergence_from_the_teacher_and_its_entropy_dotted(records: list[Record]) -> None:
    taught = {model: with_teacher(rows, 7.0) for model, rows in ROWS.items() if model != "elu"}
    figure = figures(records, **taught)["layers"]
    divergence, entropy = (
        [np.asarray(line.get_ydata(), float).tolist() for line in axes.get_lines() if line.get_linestyle() == ":"]
        for axes in figure.axes[:2]
    )
    assert (divergence, entropy) == ([[7.0, 8.0]] * 2, [[0.5, 1.5]])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[-2:] == ["softmax over the\nsame q and k", "softmax model\nbefore conversion"]


def test_models_are_drawn_by_layer_at_one_place_or_not_at_all(records: list[Record]) -> None:
    elsewhere = measure_rows(9.0, "stdlib", 64)
    figure = figures(records, elu=elsewhere)["layers"]
    assert heights(figure.axes[0]) == [[2.0, 3.0]]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["softmax", "hedgehog", "softmax over the\nsame q and k"]


def test_lengths_have_a_panel_for_each_corpus_and_crosses_where_there_is_no_value(records: list[Record]) -> None:
    lost = replace(records[1].metrics[-1], value=None, stderr=None, status="unsupported")
    records[1] = replace(records[1], metrics=(*records[1].metrics[:-1], lost))
    figure = figures(records)["lengths"]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["stdlib", "wikitext2"]
    assert [heights(axes) for axes in figure.axes] == [[[2.0], [1.0, 2.0]], [[2.0, 4.0], [1.0, 2.0]]]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["elu", "elu: no value", "hedgehog"]


def test_a_single_length_is_no_plot_over_lengths(records: list[Record]) -> None:
    single = [
        replace(record, metrics=tuple(m for m in record.metrics if m.at.get("seq_len") != 2)) for record in records
    ]
    assert "lengths" not in figures(single)


def test_products_are_points_with_softmax_s_behind(records: list[Record]) -> None:
    figure = figures(records)["products"]
    assert len(figure.axes) == 2 * LAYERS  # elu and hedgehog, the spikiest head of each layer
    spikiest = [row["products"] for row in ROWS["elu"] if row.get("head") == 1 and "products" in row]
    for axes, products in zip(figure.axes, spikiest * 2, strict=True):
        softmax, model = (np.asarray(part.get_offsets()) for part in axes.collections)
        shown = [product for of_query in products if len(of_query) >= 8 for product in of_query]
        assert softmax[:, 0].tolist() == pytest.approx(shown)
        assert (softmax[:, 0] == model[:, 0]).all()
        assert axes.get_title(loc="left").endswith("head 1")
    assert {axes.get_title(loc="left").split(",")[0] for axes in figure.axes} == {"elu", "hedgehog"}


def test_weights_of_zero_are_drawn(records: list[Record]) -> None:
    rows = sample_rows(2.0)
    for row in rows:
        if "weights" in row:
            row["weights"] = [[0.0] * len(values) for values in row["weights"]]
    figure = figures(records, elu=rows)["products"]
    assert np.asarray(figure.axes[0].collections[1].get_offsets())[:, 1].min() == pytest.approx(1e-5)


def test_maps_stand_beside_softmax_s_and_show_the_keys_that_are_seen(records: list[Record]) -> None:
    figure = figures(records)["maps"]
    maps = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    titles = [axes.get_title(loc="left") for axes in maps]
    assert titles[:4] == ["layer 0, head 1: softmax", "elu", "layer 1, head 1: softmax", "elu"]
    for axes in maps:
        (squares,) = axes.collections
        values = np.asarray(squares.get_array())
        assert len(values) == TOKENS * (TOKENS + 1) // 2
        assert values.sum() == pytest.approx(TOKENS)


def test_softmax_alone_has_its_layers_but_nothing_to_stand_beside(records: list[Record]) -> None:
    assert {"maps", "products"} & set(figures(records[:1])) == set()
    assert "layers" in figures(records[:1])


def test_what_is_drawn_from_predictions_is_left_out_without_them(records: list[Record]) -> None:
    assert {"layers", "maps", "products"} & {
        plot.name.removesuffix(f"-{WHERE}") for plot in make_plots(records)
    } == set()


def test_files_are_the_same_each_time_and_reach_for_no_image(records: list[Record], tmp_path: Path) -> None:
    rows = samples_of(ROWS)
    first = {drawing.title: drawing.svg for drawing in write_plots(records, tmp_path, rows)}
    assert first == {plot.title: to_svg(plot.figure) for plot in make_plots(records, rows)}
    assert all("<image" not in svg for svg in first.values())
    assert all((tmp_path / f"{kind}-{WHERE}.{ending}").stat().st_size for kind in KINDS for ending in ("svg", "png"))


def test_a_run_s_report_draws_from_its_predictions_where_it_has_them(records: list[Record], tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    store.create()
    for record in records:
        store.write_record(record)
        if record.model != "elu":
            store.write_samples(record.cell_id, ROWS[record.model])
    page = write_report(store).read_text(encoding="utf-8")
    assert {path.name.removesuffix(f"-{WHERE}.svg") for path in (store.root / "plots").glob("*.svg")} >= set(KINDS)
    assert "attention maps" in page

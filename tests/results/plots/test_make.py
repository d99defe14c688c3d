from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hedgebench.results.plots.draw import model_styles
from hedgebench.results.plots.make import make_plots, svg_plots, write_plots
from hedgebench.results.record import CurvePoint, Metric, Record

MakeMetric = Callable[..., Metric]
MakeRecord = Callable[..., Record]


@pytest.fixture
def few(showcase: list[Record]) -> list[Record]:
    return [record for record in showcase if record.task in ("wikitext2", "throughput")]


def test_every_kind_of_plot_is_written_twice(few: list[Record], tmp_path: Path) -> None:
    write_plots(few, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    stems = [
        "overview-wikitext2-gpt-scratch-smoke",
        "quality-wikitext2-gpt-scratch-smoke",
        "size-wikitext2-gpt-scratch-smoke",
        "sweep-throughput-prefill_ms-batch_size-1-gpt-scratch-smoke",
        "curves-wikitext2-gpt-scratch-smoke",
        "pareto-prefill_ms-wikitext2-gpt-scratch-smoke",
    ]
    assert names == {f"{stem}.{suffix}" for stem in stems for suffix in ("svg", "png")}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.glob("*.png"))


def test_the_same_records_give_the_same_files_byte_for_byte(few: list[Record], tmp_path: Path) -> None:
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        write_plots(few if folder == "first" else few[::-1], tmp_path / folder)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes(), path.name


def test_svg_is_valid_and_holds_names_as_text(make_record: MakeRecord) -> None:
    records = [make_record("softmax"), make_record("<script>$x^2$&")]
    drawings = svg_plots(records)
    for drawing in drawings:
        ElementTree.fromstring(drawing.svg)
        assert "<script" not in drawing.svg
    assert "&lt;script&gt;$x^2$&amp;" in drawings[0].svg


def test_one_model_and_twenty_with_missing_values_can_be_drawn(
    make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    assert [plot.name for plot in make_plots([make_record()])] == ["quality-wikitext2-gpt-scratch-smoke"]
    records = [make_record(f"model{i}", metrics=(make_metric(value=20.0 + i, stderr=None),)) for i in range(20)]
    records.append(make_record("broken", status="error", metrics=(), main_metric="perplexity", data=None))
    assert len(svg_plots(records)) == 1


def test_a_task_that_nobody_finished_has_no_plot(make_record: MakeRecord) -> None:
    assert make_plots([make_record(status="error", metrics=(), main_metric="perplexity")]) == []
    assert make_plots([]) == []


def test_points_out_of_memory_are_marked(few: list[Record]) -> None:
    (sweep,) = (drawing for drawing in svg_plots(few) if drawing.kind == "sweep")
    assert "no value: OOM" in sweep.svg


def test_a_state_of_zero_bytes_and_values_that_are_not_finite_are_drawn(
    make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    def sized(model: str, value: float, size: float) -> Record:
        return make_record(
            model, metrics=(make_metric(value=value), make_metric("state_bytes", size, "bytes", None, None))
        )

    records = [sized("none", 30.0, 0.0), sized("elu", 25.0, 1e3), sized("softmax", float("nan"), 1e6)]
    assert len(svg_plots(records)) == 2


def test_curves_of_one_split_can_be_drawn(make_record: MakeRecord) -> None:
    curves = tuple(
        CurvePoint(step, "train", name, 3.0 - step / 10) for step in range(5) for name in ("loss", "distill.loss")
    )
    titles = [plot.title for plot in make_plots([make_record(curves=curves)])]
    assert titles[-1] == "wikitext2: training curves (gpt, scratch, smoke)"


def test_styles_tell_models_apart_by_colour_and_in_grey_and_softmax_is_black() -> None:
    styles = model_styles([("softmax", 0)] + [(f"model{i}", 0) for i in range(24)])
    assert styles["softmax"].colour == "#000000"
    drawn = list(styles.values())
    assert len({style.colour for style in drawn[:10]}) == 10
    assert len({(style.marker, style.line) for style in drawn}) == 25
    assert len({(style.colour, style.marker) for style in drawn}) == 25


def test_a_plot_whose_name_is_too_long_for_a_file_is_written_under_a_shorter_one(
    make_record: MakeRecord, tmp_path: Path
) -> None:
    long = "m" * 300
    write_plots([make_record(task=f"{long}{i}") for i in range(2)], tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert len({name.rpartition(".")[0] for name in names if long[:100] in name}) >= 2
    assert max(map(len, names)) < 255 - 40

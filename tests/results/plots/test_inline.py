from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hedgebench.results.plots import inline
from hedgebench.results.plots.draw import model_styles
from hedgebench.results.plots.inline import inline_svg
from hedgebench.results.plots.make import svg_plots
from hedgebench.results.record import Record

FEW = {"softmax", "elu", "hedgehog"}
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def few(showcase: list[Record]) -> list[Record]:
    """Three models on a task with seeds and on a sweep."""
    return [record for record in showcase if record.model in FEW and "/" not in record.task]


def luminance(colour: str) -> float:
    """Relative luminance of a hexadecimal colour, roughly; black has 0 and white 1."""
    red, green, blue = (math.pow(int(colour[i : i + 2], 16) / 255, 2.2) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_identifiers_are_those_of_one_plot_and_still_found(few: list[Record]) -> None:
    elements = [inline_svg(drawing.svg, i) for i, drawing in enumerate(svg_plots(few))]
    ids = [identifier for element in elements for identifier in re.findall(r'\bid="([^"]*)"', element)]
    assert len(ids) == len(set(ids))
    for element in elements:
        used = re.findall(r'(?:xlink:href="#|url\(#)([^")]*)', element)
        assert set(used) <= set(ids)


def test_colours_of_the_page_and_dark_ones_are_its_variables_and_those_of_models_stay() -> None:
    text = '<?xml?><svg><path style="fill: #ffffff; stroke: #222222"/><path style="stroke: #0072b2"/></svg>'
    assert inline_svg(text, 0) == (
        '<svg><path style="fill: var(--page); stroke: var(--ink)"/><path style="stroke: #0072b2"/></svg>'
    )
    defined = (Path(inline.__file__).parent.parent / "report" / "page.css").read_text()
    for number, style in enumerate(list(model_styles((f"m{i}", 0) for i in range(9)).values())):
        drawn = inline_svg(f'<svg><path style="stroke: {style.colour.lower()}"/></svg>', number)
        variables = re.findall(r"var\((--\w+)\)", drawn)
        assert all(defined.count(f"{name}: #") == 2 for name in variables)
        assert bool(variables) == (luminance(style.colour) < 0.08)


def test_coordinates_are_shortened_and_words_are_not() -> None:
    text = '<svg width="1.23456pt"><path d="M 1.23456 7.89012 L 3 4"/><text x="9.8765">0.12345</text></svg>'
    assert inline_svg(text, 0) == '<svg width="1.23pt"><path d="M 1.23 7.89 L 3 4"/><text x="9.87">0.12345</text></svg>'


def test_marks_tell_their_values_as_titles(few: list[Record]) -> None:
    plots = {drawing.title: drawing.svg for drawing in svg_plots(few)}
    quality = next(svg for title, svg in plots.items() if title.startswith("wikitext2: perplexity"))
    tree = ElementTree.fromstring(inline_svg(quality, 0))
    titles = [title.text for title in tree.iter(f"{SVG}title")]
    assert "hedgehog: perplexity 21.400 ± 0.058" in titles
    sweep = next(svg for title, svg in plots.items() if title.startswith("throughput"))
    assert "softmax: no value at seq_len=8192" in sweep
    assert re.search(r"<title>elu: prefill_ms 46\.1 ± 2\.3 ms at batch_size=1, seq_len=512</title>", sweep)


def test_a_title_from_a_record_stays_text(few: list[Record]) -> None:
    hostile = [replace(record, model='"><script>&') for record in few if record.model == "elu"]
    for drawing in svg_plots(hostile):
        ElementTree.fromstring(inline_svg(drawing.svg, 0))
        assert "<script" not in drawing.svg

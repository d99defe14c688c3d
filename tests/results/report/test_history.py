"""Pages and plots of histories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from hedgebench.results.compare.history import MetricHistory, history
from hedgebench.results.compare.snapshot import Snapshot
from hedgebench.results.record import Metric, Record
from hedgebench.results.report.history import history_html, history_svg, real_changes

MakeRecord = Callable[..., Record]


@pytest.fixture
def found(make_record: MakeRecord) -> MetricHistory:
    """Two models over three commits, worse at the second and better at the third."""

    def run(place: int, value: float) -> Snapshot:
        facts = {"git_commit": f"{place}bcdef01", "git_commit_date": f"2026-0{place}-01T00:00:00", "cpu": "<b>&$x$"}
        metric = Metric("accuracy", value, "1", True, 0.001, 100)
        records = (make_record(model, metrics=(metric,), environment=facts) for model in ("softmax", "elu"))
        return Snapshot(f"run{place}", tuple(records))

    return history([run(1, 0.9), run(2, 0.8), run(3, 0.85)])


def test_real_changes_are_sentences_newest_first(found: MetricHistory) -> None:
    told = real_changes(found, found.lines)
    assert told[0] == (
        "improved at 3bcdef0 2026-03-01: softmax / gpt / wikitext2: accuracy ↑ 0.8 to 0.85, 5 points better "
        "(tolerance; <b>&$x$)"
    )
    assert [line.split()[0] for line in told] == ["improved", "improved", "regressed", "regressed"]


def test_the_plot_rings_changes_and_labels_each_commit_once(found: MetricHistory) -> None:
    svg = history_svg(found, found.lines)
    ElementTree.fromstring(svg)
    assert svg.count("10 points worse") == 1
    assert svg.count("5 points better") == 1
    assert "elu: 0.8 at 2bcdef0 2026-02-01" in svg
    assert svg == history_svg(found, found.lines)


def test_the_page_has_the_changes_the_plot_and_the_values_and_escapes_names(found: MetricHistory) -> None:
    text = history_html(found, found.lines)
    assert "<b>&$x$" not in text
    assert text.count("<figure") == 1
    assert '<td class="worse">0.8000 ± 0.0010</td>' in text
    assert "regressed at 2bcdef0" in text
    unchanged = replace(found, lines=())
    assert "None: no metric" in history_html(unchanged, ())

"""Comparisons as CI reads them: JUnit by a reader of it, annotations by GitHub's grammar."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

pytest.importorskip("junitparser")

from junitparser import Error, Failure, JUnitXml, Skipped, TestSuite

from hedgebench.results.compare.snapshot import Snapshot
from hedgebench.results.compare.text import RENDERERS, comparison_annotations, comparison_junit
from hedgebench.results.compare.verdicts import Comparison, compare
from hedgebench.results.record import Metric

from ..simulated import World, make_record

COMMAND = re.compile(r"::(error|warning) title=([^:,\r\n]+)::([^\r\n]+)")


@pytest.fixture
def comparison() -> Comparison:
    """A regression, an improvement, a missing cell and unchanged numbers."""
    metric = Metric("perplexity", 20.0, "1", False, None, 100)
    values = {"softmax": (20.0, 20.0), "elu": (20.0, 22.0), "evil|<b>,:\x07%": (20.0, 18.0), "relu": (20.0, None)}
    sides: tuple[list[object], list[object]] = ([], [])
    for model, pair in values.items():
        for side, value in zip(sides, pair, strict=True):
            if value is not None:
                side.append(make_record(model, "wikitext2", 0, (replace(metric, value=value),)))
    before, after = (Snapshot(name, tuple(side)) for name, side in zip(("before", "after"), sides, strict=True))  # type: ignore[arg-type]
    return compare(before, after)


def test_a_junit_reader_finds_what_failed_and_what_was_skipped(comparison: Comparison) -> None:
    suites = JUnitXml.fromstring(comparison_junit(comparison).encode())
    (suite,) = list(suites)
    assert isinstance(suite, TestSuite)
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (4, 1, 0, 1)
    results = {case.name: [type(result) for result in case.result] for case in suite}
    assert results["elu / gpt / wikitext2: perplexity"] == [Failure]
    assert results["relu / gpt / wikitext2"] == [Skipped]
    assert results["softmax / gpt / wikitext2: perplexity"] == []


def test_a_comparison_of_nothing_is_an_error_and_no_pass() -> None:
    empty = Snapshot("empty", ())
    (suite,) = list(JUnitXml.fromstring(comparison_junit(compare(empty, empty)).encode()))
    assert isinstance(suite, TestSuite)
    assert (suite.tests, suite.errors) == (1, 1)
    assert [type(result) for case in suite for result in case.result] == [Error]


def test_annotations_follow_githubs_grammar(comparison: Comparison) -> None:
    lines = comparison_annotations(comparison).splitlines()
    matches = [COMMAND.fullmatch(line) for line in lines]
    assert all(matches)
    assert [match[1] for match in matches if match] == ["error", "warning"]
    assert "elu / gpt / wikitext2%3A perplexity" in lines[0]
    assert "+10.00%25" in lines[0]


def test_text_from_records_cannot_break_out_of_a_table_or_an_annotation() -> None:
    evil = make_record("x\n::error::y|z<b>", "t", 0, (Metric("m", 1.0, "1", False, None, 1),))
    comparison = compare(Snapshot("a", (evil,)), Snapshot("b", ()))
    assert len(comparison_annotations(comparison).splitlines()) == 1
    table = RENDERERS["md"](comparison)
    assert "y\\|z&lt;b&gt;" in table
    assert JUnitXml.fromstring(comparison_junit(comparison).encode()) is not None


def test_markdown_leads_with_the_verdict_and_has_the_worst_first(comparison: Comparison) -> None:
    lines = RENDERERS["md"](comparison).splitlines()
    assert lines[0] == "**regression**: 1 regressed, 1 missing, 1 improved, 1 unchanged"
    rows = [line for line in lines if line.startswith("|")][2:]
    assert rows[0].startswith("| **regressed** | elu / gpt / wikitext2: perplexity | 20 | 22 | +10.00% |")
    assert len({row.replace("\\|", "").count("|") for row in rows}) == 1


@pytest.mark.parametrize(
    ("metric", "before", "after", "told"),
    [
        (Metric("perplexity", None, "1", False, None, 1), 20.0, 40.0, "+100.00%"),
        (Metric("perplexity", None, "1", False, None, 1), 40.0, 20.0, "-50.00%"),
        (Metric("accuracy", None, "1", True, None, 1), 0.4, 0.3, "+10.00 points"),
    ],
)
def test_ratios_change_by_percent_and_fractions_by_points(
    metric: Metric, before: float, after: float, told: str
) -> None:
    one, other = (
        Snapshot("run", (make_record("elu", "recall", 0, (replace(metric, value=value),)),))
        for value in (before, after)
    )
    (row,) = [line for line in RENDERERS["md"](compare(one, other)).splitlines() if "elu / gpt" in line]
    assert row.split(" | ")[4] == told


def test_github_has_the_annotations_before_the_table(comparison: Comparison) -> None:
    text = RENDERERS["github"](comparison)
    assert text.startswith("::error title=")
    assert text.endswith(RENDERERS["md"](comparison))


def test_json_holds_every_number_of_the_table() -> None:
    world = World()
    data = json.loads(RENDERERS["json"](compare(world.run(1), world.run(2, slower=0.5))))
    assert data["exit_code"] == 1
    assert sum(data["counts"].values()) == len(data["findings"]) == 9
    slow = [finding for finding in data["findings"] if finding["metric"] == "prefill_ms"]
    assert all(finding["worse"] == pytest.approx(0.4, abs=0.1) for finding in slow)
    assert all(finding["method"] == "ratio of medians" and finding["seeds"] == [0, 1, 2, 3, 4] for finding in slow)

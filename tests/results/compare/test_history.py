"""Histories: order, lines of comparable values, and changes that are real."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hedgebench.results.compare.history import HistoryLine, MetricHistory, history, history_json, shown_lines
from hedgebench.results.compare.snapshot import Snapshot
from hedgebench.results.names import UnknownNameError, UsageError
from hedgebench.results.record import Metric, Record, Scalar

from ..simulated import World, make_record

PERPLEXITY = Metric("perplexity", 20.0, "1", False, None, 100)


def run(name: str, value: float = 20.0, date: str = "", settings: float = 0.01, **environment: Scalar) -> Snapshot:
    """A run of one cell without predictions, so that the margin of half a percent judges."""
    facts = {"device": "cpu", "dtype": "float32", "git_commit": name, **environment}
    facts |= {"git_commit_date": date} if date else {}
    record = make_record(
        "elu", "wikitext2", 0, (replace(PERPLEXITY, value=value),), environment=facts, settings={"train.lr": settings}
    )
    return Snapshot(name, (record,))


def only(found: MetricHistory) -> HistoryLine:
    (line,) = found.lines
    return line


def test_versions_are_in_the_order_of_their_commits_dates() -> None:
    found = history([run("c", 3.0, "2026-03-01"), run("a", 1.0, "2026-01-01"), run("b", 2.0, "2026-02-01")])
    assert [version.label for version in found.versions] == ["a 2026-01-01", "b 2026-02-01", "c 2026-03-01"]
    assert [point.value for point in only(found).points] == [1.0, 2.0, 3.0]


def test_a_run_without_a_date_stays_behind_the_one_before_it_and_is_told() -> None:
    found = history([run("b", date="2026-02-01"), run("x"), run("a", date="2026-01-01")])
    assert [version.commit for version in found.versions] == ["a", "b", "x"]
    assert found.notes == ("x states no date of its commit; it keeps its place behind the run given before it",)
    dated = history([run("b", date="2026-02-01"), run("x")], {"x": "2026-01-15"}.get)
    assert [version.commit for version in dated.versions] == ["x", "b"]


def test_only_changes_beyond_the_margin_are_real_and_slow_ones_are_found_over_all_steps() -> None:
    values = (20.0, 20.01, 20.5, 20.1)
    line = only(history([run(str(i), value, f"2026-01-0{i + 1}") for i, value in enumerate(values)]))
    assert [(point.place, point.change and point.change.verdict) for point in line.changes] == [
        (2, "regressed"),
        (3, "improved"),
    ]
    slow = only(history([run(str(i), 20.0 + 0.06 * i, f"2026-01-0{i + 1}") for i in range(5)]))
    assert slow.changes == ()
    assert slow.is_changed
    assert slow.overall is not None
    assert slow.overall.verdict == "regressed"


def test_changes_between_noisy_runs_are_those_of_compare() -> None:
    runs = [World().run(seed, worse_nats=0.03 * (seed > 1)) for seed in range(4)]
    found = history(runs)
    lines = [line for line in found.lines if line.metric.name == "perplexity"]
    assert len(lines) == 3
    assert {point.place for line in lines for point in line.changes} == {2}
    assert not any(line.changes for line in found.lines if line.metric.name == "accuracy")


def test_what_cannot_be_compared_is_another_line() -> None:
    def timed(name: str, cpu: str) -> Snapshot:
        prefill = Metric("prefill_ms", 1.0, "ms", False, None, 3, samples=(1.0, 1.0, 1.1))
        facts = {"device": "cpu", "cpu": cpu, "git_commit": name, "git_commit_date": f"2026-01-0{name}"}
        return Snapshot(name, (make_record("elu", "throughput", 0, (prefill,), environment=facts),))

    first, second = history([timed("1", "old"), timed("2", "new"), timed("3", "old")]).lines
    assert [point.place for point in first.points] == [0, 2]
    assert [point.place for point in second.points] == [1]
    assert (first.device, first.apart) == ("old", "")
    assert (second.device, second.apart) == ("new", "another cpu: was old, is new")
    settings = history([run("1", settings=0.01), run("2", settings=0.02)]).lines
    assert [line.apart for line in settings] == ["", "settings differ: train.lr was 0.01, is 0.02"]


def test_a_cell_that_failed_is_told() -> None:
    def failed(record: Record) -> Record:
        return replace(record, status="error", metrics=())

    broken = run("b", date="2026-02-01")
    found = history([run("a", date="2026-01-01"), replace(broken, records=tuple(map(failed, broken.records)))])
    assert len(only(found).points) == 1
    assert found.notes == ("elu / gpt / wikitext2, seed 0, has no result at b 2026-02-01: error",)


def test_one_run_has_no_history() -> None:
    with pytest.raises(UsageError, match="needs two runs or baselines with results; there are 1"):
        history([run("a"), Snapshot("empty", ())])


def test_lines_for_people_are_those_of_main_metrics_unless_others_are_asked_for() -> None:
    found = history([run("a", 20.0), run("b", 20.0)])
    assert shown_lines(found.lines) == list(found.lines)
    assert shown_lines(found.lines, ["perp*"]) == list(found.lines)
    other = [replace(line, is_main=False) for line in found.lines]
    assert shown_lines(other) == []
    with pytest.raises(UnknownNameError, match="unknown metric 'perplexty'; did you mean perplexity"):
        shown_lines(found.lines, ["perplexty"])


def test_json_holds_every_point_and_its_change() -> None:
    content = json.loads(history_json(history([run("a", 20.0, "2026-01-01"), run("b", 21.0, "2026-02-01")])))
    assert [version["commit"] for version in content["versions"]] == ["a", "b"]
    (line,) = content["lines"]
    assert (line["model"], line["metric"], line["device"]) == ("elu", "perplexity", "cpu, float32")
    assert [point["value"] for point in line["points"]] == [20.0, 21.0]
    assert line["points"][0]["change"] is None
    assert line["points"][1]["change"]["verdict"] == "regressed"

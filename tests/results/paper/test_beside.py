"""Tests of results/paper/beside.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from hedgebench.results.paper.beside import MeasuredColumn, beside_table
from hedgebench.results.record import Record
from hedgebench.results.reference.printed import ReferenceColumn, ReferenceRow, ReferenceTable
from hedgebench.results.tables.aggregate import leaderboard_rows
from hedgebench.results.tables.row import Row
from hedgebench.results.tables.tables import Table


def column(name: str, unit: str = "x100") -> ReferenceColumn:
    return ReferenceColumn(name, name, name, "accuracy", unit, True, 1)


def printed(*rows: ReferenceRow, columns: Sequence[str] = ("a", "b", "average", "percent_recovered")) -> ReferenceTable:
    return ReferenceTable("table-0", "A table", "paper", tuple(map(column, columns)), rows)


PRINTED = printed(
    ReferenceRow("Softmax", {"a": 80.0, "b": 60.0, "average": 70.0}, "transcribed", "x", model="softmax"),
    ReferenceRow("HH", {"a": 79.0, "percent_recovered": 99.0}, "paper", "x", "hedgehog", marks={"a": "unverified"}),
    ReferenceRow("Other", {"a": 50.0}, "paper", "x", work="another paper"),
)


@pytest.fixture
def measured(make_record: Any, make_metric: Any) -> list[MeasuredColumn]:
    """Softmax 0.8 and 0.5, hedgehog 0.6 and 0.5, each with two seeds that differ by 0.02."""

    def record(model: str, task: str, seed: int, value: float) -> Record:
        score = make_metric("accuracy", value + 0.02 * seed, "1", True, 0.01)
        made: Record = make_record(model, task, seed, metrics=(score,))
        return made

    values = {("softmax", "a"): 0.8, ("softmax", "b"): 0.5, ("hedgehog", "a"): 0.6, ("hedgehog", "b"): 0.5}
    rows: list[Row] = leaderboard_rows(
        [record(model, task, seed, value) for (model, task), value in values.items() for seed in (0, 1)]
    )
    return [MeasuredColumn(task, task, tuple(r for r in rows if r.comparison.task == task)) for task in ("a", "b")]


def texts(table: Table) -> dict[str, list[str]]:
    return {label: [f"{entry.text} {entry.note}".strip() for entry in entries] for label, entries in table.rows}


def test_each_method_has_the_paper_s_line_above_ours_in_one_unit(measured: list[MeasuredColumn]) -> None:
    table = beside_table("t", PRINTED, measured, ("softmax", "hedgehog"))
    assert [label for label, _ in table.rows] == [
        *("Softmax: paper", "softmax: here", "HH: paper", "hedgehog: here", "Other: paper")
    ]
    found = texts(table)
    assert found["softmax: here"][:2] == ["81.0", "51.0"]
    assert found["Softmax: paper"][:3] == ["80.0 T", "60.0 T", "70.0 T"]


def test_a_number_has_its_own_mark_and_one_that_is_absent_is_not_known(measured: list[MeasuredColumn]) -> None:
    found = texts(beside_table("t", PRINTED, measured, ("softmax", "hedgehog")))
    assert found["HH: paper"] == ["79.0 U", "not known", "not known", "99.0 P"]


def test_a_row_or_metric_that_is_less_sure_than_its_numbers_says_so(measured: list[MeasuredColumn]) -> None:
    rows = (
        ReferenceRow("Softmax", {"a": 80.0}, "paper", "x", model="softmax", placement="unverified"),
        ReferenceRow("HH", {"a": 79.0}, "paper", "x", model="hedgehog", placement="paper"),
    )
    table = printed(*rows, columns=("a", "b"))
    unsure = replace(table, columns=(table.columns[0], replace(table.columns[1], metric_mark="unverified")))
    found = beside_table("t", unsure, measured, ("softmax", "hedgehog"))
    assert [label for label, _ in found.rows if ": paper" in label] == ["Softmax: paper (row U)", "HH: paper"]
    assert [heading.detail for heading in found.columns] == ["a", "b; the paper's metric: U"]


def test_means_and_shares_are_over_both_columns_and_all_seeds(measured: list[MeasuredColumn]) -> None:
    table = beside_table("t", PRINTED, measured, ("softmax", "hedgehog"))
    found = texts(table)
    assert found["softmax: here"][2:] == ["66.0", "100"]
    assert found["hedgehog: here"][2] == "56.0"
    # The ratio of sums, as the leaderboard and the claims have it; a mean of the seeds' ratios would be another number.
    share = 100 * (1.1 + 1.14) / (1.3 + 1.34)
    entry = dict(table.rows)["hedgehog: here"][3]
    assert entry.order == pytest.approx(share)
    assert float(entry.stderr) == pytest.approx((100 * 1.14 - share * 1.34) / 1.32, abs=0.005)


def test_a_column_that_was_not_measured_says_so_and_sums_say_how_many_they_are_of(
    measured: list[MeasuredColumn],
) -> None:
    columns = [measured[0], MeasuredColumn("b", "not measured", gap="no data")]
    found = texts(beside_table("t", PRINTED, columns, ("softmax",)))
    assert found["softmax: here"] == ["81.0", "not measured", "81.0 1 of 2", "100 1 of 2"]


def test_without_printed_numbers_values_keep_their_unit(measured: list[MeasuredColumn]) -> None:
    table = beside_table("t", None, measured, ("softmax", "hedgehog"))
    assert texts(table) == {"softmax: here": ["0.810", "0.510"], "hedgehog: here": ["0.610", "0.510"]}


def test_a_printed_row_of_another_recipe_stands_by_itself(measured: list[MeasuredColumn]) -> None:
    zero_shot = ReferenceRow("Zero", {"a": 10.0}, "paper", "x", model="softmax", recipe="zero-shot")
    trained = ReferenceRow("Trained", {"a": 20.0}, "paper", "x", model="softmax")
    table = beside_table("t", printed(zero_shot, trained, columns=("a",)), measured[:1], ("softmax",), "scratch")
    assert [label for label, _ in table.rows] == ["Trained: paper", "softmax: here", "Zero: paper"]

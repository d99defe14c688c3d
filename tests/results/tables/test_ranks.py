"""Ranks with ties against intervals worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from hedgebench.results.record import Metric, Record
from hedgebench.results.tables.aggregate import Row, leaderboard_rows
from hedgebench.results.tables.ranks import half_width, rankings

MakeMetric = Callable[..., Metric]
MakeRecord = Callable[..., Record]


@pytest.fixture
def make_rows(make_record: MakeRecord, make_metric: MakeMetric) -> Callable[..., list[Row]]:
    """Rows of one column out of models, values and standard errors."""

    def make(values: dict[str, tuple[float | None, float | None]], higher: bool | None = True) -> list[Row]:
        records = [
            make_record(model, metrics=(make_metric("score", value, "1", higher, stderr),))
            for model, (value, stderr) in values.items()
        ]
        rows = {row.model: row for row in leaderboard_rows(records)}
        return [rows[model] for model in values]

    return make


def test_models_whose_intervals_overlap_share_a_rank(make_rows: Callable[..., list[Row]]) -> None:
    rows = make_rows({"softmax": (10.0, 0.5), "elu": (9.0, 0.5), "relu": (7.0, 0.4), "t2r": (1.0, 0.1)})
    # Intervals: 9 to 11, 8 to 10, 6.2 to 7.8, 0.8 to 1.2.
    assert [place.rank for place in rankings(rows)] == ["1=", "1=", "3", "4"]
    assert [place.is_best for place in rankings(rows)] == [True, False, False, False]
    assert [place.standing for place in rankings(rows)] == ["", "same", "worse", "worse"]


def test_an_interval_that_reaches_over_two_others_ties_with_both(make_rows: Callable[..., list[Row]]) -> None:
    rows = make_rows({"softmax": (10.0, 0.1), "elu": (9.0, 1.0), "relu": (8.0, 0.1)})
    # 9.8 to 10.2, 7 to 11, 7.8 to 8.2: relu is behind softmax alone.
    assert [place.rank for place in rankings(rows)] == ["1=", "1=", "2"]


def test_where_lower_is_better_the_order_turns(make_rows: Callable[..., list[Row]]) -> None:
    rows = make_rows({"softmax": (20.0, 0.1), "elu": (30.0, 0.1), "hedgehog": (15.0, 0.1)}, higher=False)
    assert [place.rank for place in rankings(rows)] == ["2", "3", "1"]
    assert [place.standing for place in rankings(rows)] == ["", "worse", "better"]


def test_without_errors_only_equal_values_tie(make_rows: Callable[..., list[Row]]) -> None:
    rows = make_rows({"softmax": (1.0, None), "elu": (1.0, None), "relu": (0.999, None)})
    assert [place.rank for place in rankings(rows)] == ["1=", "1=", "3"]
    assert [place.is_best for place in rankings(rows)] == [True, True, False]


def test_nothing_is_ranked_without_a_direction_a_number_or_a_peer(make_rows: Callable[..., list[Row]]) -> None:
    assert [p.rank for p in rankings(make_rows({"softmax": (1.0, 0.1), "elu": (2.0, 0.1)}, higher=None))] == ["", ""]
    alone = make_rows({"softmax": (1.0, 0.1), "elu": (float("nan"), 0.1), "relu": (None, None)})
    assert [(p.rank, p.is_best) for p in rankings(alone)] == [("", False)] * 3


def test_an_infinite_perplexity_is_the_worst(make_rows: Callable[..., list[Row]]) -> None:
    rows = make_rows({"softmax": (20.0, 0.1), "elu": (float("inf"), None), "relu": (float("inf"), None)}, higher=False)
    assert [place.rank for place in rankings(rows)] == ["1", "2=", "2="]


def test_other_conditions_are_ranked_apart(make_rows: Callable[..., list[Row]]) -> None:
    rows = make_rows({"softmax": (1.0, 0.01), "elu": (2.0, 0.01), "relu": (3.0, 0.01), "t2r": (4.0, 0.01)})
    keyed = [replace(row, peer_key=key) for row, key in zip(rows, ("a", "a", "b", "b"), strict=True)]
    assert [place.rank for place in rankings(keyed)] == ["2", "1", "2", "1"]
    assert [place.standing for place in rankings(keyed)] == ["", "better", "", ""]


@pytest.mark.parametrize(("seeds", "errors"), [("0", 2.0), ("0,1", 12.7), ("0,1,2", 4.3)])
def test_few_seeds_make_wide_intervals(make_rows: Callable[..., list[Row]], seeds: str, errors: float) -> None:
    (row,) = make_rows({"softmax": (1.0, 0.5)})
    assert half_width(replace(row, seeds=seeds)) == pytest.approx(0.5 * errors)

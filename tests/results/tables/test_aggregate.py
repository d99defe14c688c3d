from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from hedgebench.results.record import DataIdentity, Failure, Metric, Record
from hedgebench.results.stats.evidence import NO_EVIDENCE
from hedgebench.results.tables.aggregate import leaderboard_rows, merge_runs, percent_of
from hedgebench.results.tables.format import format_factor
from hedgebench.results.tables.row import Row, format_at

MakeMetric = Callable[..., Metric]
MakeRecord = Callable[..., Record]


def main_rows(records: list[Record], model: str) -> list[Row]:
    return [row for row in leaderboard_rows(records) if row.model == model and row.is_main]


@pytest.mark.parametrize(
    ("value", "reference", "higher_is_better", "percent"),
    [
        (45.0, 50.0, True, 90.0),
        (55.0, 50.0, True, 110.0),
        (25.0, 20.0, False, 80.0),
        (16.0, 20.0, False, 125.0),
        (45.0, 50.0, None, None),
        (-0.1, 0.5, True, None),
        (0.0, 0.5, True, None),
        (0.5, 0.0, True, None),
        (math.nan, 0.5, True, None),
        (math.inf, 20.0, False, None),
    ],
)
def test_percent_of_softmax_has_known_answers(
    value: float, reference: float, higher_is_better: bool | None, percent: float | None
) -> None:
    assert percent_of(value, reference, higher_is_better) == pytest.approx(percent)


def test_a_row_is_told_from_another_by_its_number_and_not_by_the_measurements_behind_it(
    make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    (row,) = main_rows([make_record("elu", metrics=(make_metric(value=20.0),))], "elu")
    assert row.evidence != NO_EVIDENCE
    assert {row, replace(row, evidence=NO_EVIDENCE)} == {row}
    assert len({row, replace(row, value=21.0)}) == 2


def test_percent_recovered_compares_with_softmax_under_the_same_conditions(
    make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    records = [
        make_record("softmax", metrics=(make_metric(value=20.0),)),
        make_record("softmax", scale="small", metrics=(make_metric(value=10.0),)),
        make_record("hedgehog", metrics=(make_metric(value=25.0),)),
    ]
    assert [row.percent_recovered for row in main_rows(records, "hedgehog")] == [80.0]
    assert [row.percent_recovered for row in main_rows(records, "softmax")] == [100.0, 100.0]


@pytest.mark.parametrize(
    "other",
    [
        {"scale": "small"},
        {"recipe": "zero-shot"},
        {"backbone": "encoder"},
        {"task": "lambada"},
        {"limit": 10},
        {"data": DataIdentity("wikitext", "abc123", "another", "hub")},
        {"status": "error", "metrics": (), "main_metric": "perplexity"},
        {"model": "softmax:other=1"},
    ],
)
def test_percent_recovered_is_empty_without_a_comparable_softmax(
    make_record: MakeRecord, other: dict[str, object]
) -> None:
    records = [make_record(**{"model": "softmax"} | other), make_record("hedgehog")]
    assert [row.percent_recovered for row in main_rows(records, "hedgehog")] == [None]


@pytest.mark.parametrize(
    ("kind", "value", "factor", "text"),
    [
        (("train_ms", "ms", False), 140.0, 1.4, "1.4x slower"),
        (("train_ms", "ms", False), 25.0, 0.25, "4x faster"),
        (("tokens_per_s", "tokens/s", True), 25.0, 0.25, "4x slower"),
        (("state_bytes", "bytes", False), 100 / 248, 1 / 248, "248x smaller"),
        (("energy_j", "J", False), 200.0, 2.0, "2x more"),
        (("train_ms", "ms", False), 100.1, 1.001, "1.00x"),
    ],
)
def test_costs_are_told_as_factors(
    kind: tuple[str, str, bool],
    value: float,
    factor: float,
    text: str,
    make_record: MakeRecord,
    make_metric: MakeMetric,
) -> None:
    name, unit, higher = kind
    records = [
        make_record(model, metrics=(make_metric(name, number, unit, higher),))
        for model, number in (("softmax", 100.0), ("elu", value))
    ]
    (row,) = main_rows(records, "elu")
    assert row.percent_recovered is None
    assert row.factor == pytest.approx(factor)
    assert format_factor(factor, unit) == text


def test_a_correlation_has_no_percentage(make_record: MakeRecord, make_metric: MakeMetric) -> None:
    metrics = [(make_metric("matthews", value, "1", True),) for value in (0.02, 0.4)]
    records = [make_record(model, metrics=own) for model, own in zip(("softmax", "elu"), metrics, strict=True)]
    (row,) = main_rows(records, "elu")
    assert (row.percent_recovered, row.factor) == (None, None)


def test_rows_with_another_peer_key_are_not_comparable(make_record: MakeRecord) -> None:
    def recovered(first: str, second: str) -> float | None:
        records = [make_record("softmax", peer_key=first), make_record("elu", seed=1, peer_key=second)]
        return main_rows(records, "elu")[0].percent_recovered

    assert recovered("a", "a") == 100
    assert recovered("a", "") == 100
    assert recovered("a", "b") is None


def test_of_several_softmax_rows_the_one_with_the_same_peer_key_is_compared(
    make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    records = [
        make_record("softmax", peer_key=key, metrics=(make_metric(value=v),)) for key, v in (("a", 10.0), ("b", 18.0))
    ]
    (row,) = main_rows([*records, make_record("elu", peer_key="b")], "elu")
    assert row.percent_recovered == pytest.approx(90.0)


def test_several_seeds_give_their_mean_and_the_error_over_seeds(
    make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    values = (20.0, 21.0, 25.0)
    records = [make_record(seed=i, metrics=(make_metric(value=v, n=100 - i),)) for i, v in enumerate(values)]
    (row,) = leaderboard_rows(records)
    assert row.value == 22.0
    assert row.stderr == pytest.approx(math.sqrt(7.0 / 3))
    assert (row.seeds, row.n) == ("0,1,2", 98)


def test_one_seed_keeps_the_standard_error_of_its_metric(make_record: MakeRecord) -> None:
    (row,) = leaderboard_rows([make_record(seed=7)])
    assert (row.value, row.stderr, row.seeds, row.n) == (20.0, 0.25, "7", 100)


def test_a_seed_that_failed_has_a_row_of_its_own(make_record: MakeRecord) -> None:
    failed = make_record(
        seed=1, status="error", metrics=(), main_metric="perplexity", data=None, error=Failure("E", "m")
    )
    rows = leaderboard_rows([make_record(seed=0), failed])
    assert [(row.seeds, row.value, row.status) for row in rows] == [("1", None, "error"), ("0", 20.0, "ok")]


@pytest.mark.parametrize(
    "change", [{"settings": {"train.lr": 0.1}}, {"peer_key": "float64"}, {"environment": {"torch": "2.9"}}]
)
def test_a_second_record_of_a_seed_is_never_averaged_with_the_first(
    make_record: MakeRecord, change: dict[str, object]
) -> None:
    rows = leaderboard_rows([make_record(), make_record(**change)])
    assert [(row.seeds, row.variant) for row in rows] == [("0", 0), ("0", 1)]


def test_rows_of_a_limited_run_are_partial_and_stand_apart(make_record: MakeRecord) -> None:
    rows = leaderboard_rows([make_record(), make_record(limit=10), make_record(limit=10, seed=1)])
    assert [(row.status, row.seeds, row.comparison.limit) for row in rows] == [
        ("ok", "0", None),
        ("partial", "0,1", 10),
    ]


def test_a_point_out_of_memory_keeps_its_status_beside_points_with_values(
    make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    points = (
        make_metric("prefill_ms", None, at={"seq_len": 1024, "batch_size": 2}, status="oom"),
        make_metric("prefill_ms", 5.0, at={"seq_len": 512, "batch_size": 2}),
    )
    rows = leaderboard_rows([make_record(metrics=points)])
    assert [(row.at, row.value, row.status) for row in rows] == [
        ("batch_size=2;seq_len=512", 5.0, "ok"),
        ("batch_size=2;seq_len=1024", None, "oom"),
    ]


def test_the_order_of_rows_does_not_depend_on_the_order_of_records(showcase: list[Record]) -> None:
    shuffled = list(showcase)
    Random(3).shuffle(shuffled)
    assert leaderboard_rows(shuffled) == leaderboard_rows(showcase)


def test_of_a_cell_in_several_runs_the_newest_is_kept_and_this_is_told(
    make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    old = make_record(cell_id="same")
    new = make_record(cell_id="same", metrics=(make_metric(value=19.0),))
    other = make_record("elu", cell_id="other")
    records, messages = merge_runs([("monday", [old, other]), ("tuesday", [new])])
    assert records == [new, other]
    assert messages == ["cell same (softmax on wikitext2, seed 0) is in monday and tuesday; tuesday is shown"]


def test_coordinates_are_spelled_in_the_order_of_their_names() -> None:
    assert format_at({"seq_len": 512, "batch_size": 1}) == "batch_size=1;seq_len=512"
    assert format_at({}) == ""


def test_what_is_measured_beside_a_model_stands_in_its_place(make_record: MakeRecord, make_metric: MakeMetric) -> None:
    metrics = [make_metric(name="ms", at={"contender": name, "seq_len": 8}) for name in ("ours", "theirs")]
    rows = leaderboard_rows([make_record(metrics=tuple(metrics))])
    assert [(row.model, row.at) for row in rows if row.metric == "ms"] == [
        ("ours", "seq_len=8"),
        ("theirs", "seq_len=8"),
    ]

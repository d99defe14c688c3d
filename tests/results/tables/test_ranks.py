"""Ranks with ties, against intervals worked out by hand and tests of paired answers by scipy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from hedgebench.results.record import Metric, Record
from hedgebench.results.stats.evidence import NO_EVIDENCE, kept_scores
from hedgebench.results.tables.aggregate import leaderboard_rows
from hedgebench.results.tables.ranks import differences, pairing, rankings
from hedgebench.results.tables.row import Row

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


def test_models_that_cannot_be_told_apart_share_a_rank(make_rows: Callable[..., list[Row]]) -> None:
    rows = make_rows({"softmax": (10.0, 0.5), "elu": (9.0, 0.5), "relu": (7.0, 0.4), "t2r": (1.0, 0.1)})
    # softmax and elu differ by 1.4 errors, any other two by 3.1 or more: p = 0.0018, and 0.0036 adjusted.
    assert [place.rank for place in rankings(rows)] == ["1=", "1=", "3", "4"]
    assert not any(place.is_best for place in rankings(rows))
    assert [place.standing for place in rankings(rows)] == ["", "same", "worse", "worse"]


def test_a_number_with_a_large_error_ties_with_two_that_are_told_apart(make_rows: Callable[..., list[Row]]) -> None:
    rows = make_rows({"softmax": (10.0, 0.1), "elu": (9.0, 1.0), "relu": (8.0, 0.1)})
    # relu is behind softmax by 14 errors, and behind elu by 1.
    assert [place.rank for place in rankings(rows)] == ["1=", "1=", "2"]


def test_where_lower_is_better_the_order_turns(make_rows: Callable[..., list[Row]]) -> None:
    rows = make_rows({"softmax": (20.0, 0.1), "elu": (30.0, 0.1), "hedgehog": (15.0, 0.1)}, higher=False)
    assert [place.rank for place in rankings(rows)] == ["2", "3", "1"]
    assert [place.standing for place in rankings(rows)] == ["", "worse", "better"]


def test_scores_whose_error_is_not_known_are_not_told_apart(make_rows: Callable[..., list[Row]]) -> None:
    rows = make_rows({"softmax": (1.0, None), "elu": (0.5, 0.01), "relu": (0.2, 0.01)})
    assert [(place.rank, place.standing) for place in rankings(rows)] == [("1=", ""), ("1=", "same"), ("2", "same")]


def test_counts_of_bytes_have_no_error_and_tie_only_if_they_are_equal(make_rows: Callable[..., list[Row]]) -> None:
    rows = make_rows({"softmax": (4096.0, None), "elu": (4096.0, None), "relu": (4000.0, None)}, higher=False)
    assert [place.rank for place in rankings([replace(row, unit="bytes") for row in rows])] == ["2=", "2=", "1"]


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


def test_few_seeds_take_students_t(make_rows: Callable[..., list[Row]]) -> None:
    rows = [replace(row, seeds="0,1") for row in make_rows({"softmax": (10.0, 0.1), "elu": (9.5, 0.1)})]
    (change,) = differences(rows).values()
    # Welch: 0.5 / sqrt(0.1^2 + 0.1^2) = 3.54 errors of 2 degrees of freedom.
    assert change.p_value == pytest.approx(2 * stats.t.sf(0.5 / math.sqrt(0.02), 2))
    assert [place.rank for place in rankings(rows)] == ["1=", "1="]


def paired_rows(make_record: MakeRecord, make_metric: MakeMetric, correct: dict[str, list[list[int]]]) -> list[Row]:
    """Rows of models that answered the same documents, rightly or wrongly, under each seed."""
    records, samples = [], {}
    for model, seeds in correct.items():
        for seed, answers in enumerate(seeds):
            share = sum(answers) / len(answers)
            stderr = math.sqrt(share * (1 - share) / (len(answers) - 1))
            metric = make_metric("accuracy", share, "1", True, stderr, len(answers))
            record = make_record(model, "glue/sst2", seed, metrics=(metric,), cell_id=f"{model}-{seed}")
            records.append(record)
            samples[record.cell_id] = [{"row": i, "correct": right} for i, right in enumerate(answers)]
    rows = leaderboard_rows(records, kept_scores(lambda record: samples[record.cell_id]))
    return sorted(rows, key=lambda row: list(correct).index(row.model))


def test_answers_to_the_same_documents_are_paired(make_record: MakeRecord, make_metric: MakeMetric) -> None:
    # Of 400 documents softmax alone is right on 53, elu alone on 22, both on 268: 0.8025 and 0.725.
    softmax = [1] * 268 + [1] * 53 + [0] * 22 + [0] * 57
    elu = [1] * 268 + [0] * 53 + [1] * 22 + [0] * 57
    rows = paired_rows(make_record, make_metric, {"softmax": [softmax], "elu": [elu]})
    intervals = [(row.value - 2 * row.stderr, row.value + 2 * row.stderr) for row in rows]  # type: ignore[operator]
    assert intervals[0][0] < intervals[1][1]  # apart they overlap
    (change,) = differences(rows).values()
    assert change.worse / change.stderr == pytest.approx(stats.ttest_rel(softmax, elu).statistic, rel=0.05)  # type: ignore[operator]
    assert change.p_value == pytest.approx(stats.binomtest(53, 75).pvalue, abs=5e-4)
    assert [(place.rank, place.is_best, place.standing) for place in rankings(rows)] == [
        ("1", True, ""),
        ("2", False, "worse"),
    ]
    assert pairing(rows) == "paired over 400 documents"


def test_seeds_add_their_spread_to_that_of_documents(make_record: MakeRecord, make_metric: MakeMetric) -> None:
    rng = np.random.default_rng(0)
    answers = {
        model: [[int(right) for right in rng.random(200) < share] for share in shares]
        for model, shares in {"softmax": (0.9, 0.85, 0.8), "elu": (0.7, 0.75, 0.6)}.items()
    }
    rows = paired_rows(make_record, make_metric, answers)
    gaps = np.subtract(answers["softmax"], answers["elu"])
    variance = gaps.mean(axis=0).var(ddof=1) / 200 + gaps.mean(axis=1).var(ddof=1) / 3
    (change,) = differences(rows).values()
    assert (change.worse, change.stderr) == pytest.approx((gaps.mean(), math.sqrt(variance)), rel=0.05)
    assert pairing(rows) == "paired over 200 documents and 3 seeds"


def test_p_values_are_adjusted_over_all_pairs_of_a_column(make_rows: Callable[..., list[Row]]) -> None:
    two = {"softmax": (10.0, 0.1), "elu": (9.68, 0.1)}  # 2.26 errors: p = 0.024
    assert [place.standing for place in rankings(make_rows(two))] == ["", "worse"]
    three = make_rows({**two, "relu": (9.70, 0.1)})
    assert [place.standing for place in rankings(three)] == ["", "same", "same"]


def test_a_model_without_predictions_is_compared_by_its_error(make_record: MakeRecord, make_metric: MakeMetric) -> None:
    rows = paired_rows(
        make_record, make_metric, {"softmax": [[1, 0] * 50], "elu": [[0, 1] * 50], "relu": [[1, 1] * 50]}
    )
    alone = [*rows[:2], replace(rows[2], evidence=NO_EVIDENCE)]
    assert [change.method for change in differences(alone).values()] == ["paired bootstrap", "unpaired", "unpaired"]
    assert (pairing(alone), pairing(alone[1:]), pairing(alone[2:])) == ("not all paired", "not all paired", "")


@pytest.mark.parametrize(("pace_ms", "ranks"), [(1.0, ["1", "2"]), (1.12, ["1=", "1="])])
def test_times_are_told_apart_only_beyond_what_the_pace_explains(
    pace_ms: float, ranks: list[str], make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    records = []
    for model, ms, pace in (("softmax", 10.0, 1.0), ("elu", 11.5, pace_ms)):  # 15 % slower
        measured = (make_metric("decode_ms", ms, "ms", False), make_metric("pace_ms", pace, "ms", None))
        metrics = tuple(
            replace(metric, samples=(value,) * 9) for metric, value in zip(measured, (ms, pace), strict=True)
        )
        records.append(make_record(model, "throughput", metrics=metrics, main_metric="decode_ms"))
    rows = [row for row in leaderboard_rows(records) if row.metric == "decode_ms"]
    assert [place.rank for place in rankings(rows)] == ranks

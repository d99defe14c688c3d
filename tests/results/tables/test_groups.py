from __future__ import annotations

from collections.abc import Callable

import pytest

from hedgebench.results.record import Metric, Record
from hedgebench.results.reference.load import load_reference
from hedgebench.results.tables.aggregate import leaderboard_rows
from hedgebench.results.tables.groups import GroupScore, group_scores

MakeMetric = Callable[..., Metric]
MakeRecord = Callable[..., Record]


@pytest.fixture
def make_glue(make_record: MakeRecord, make_metric: MakeMetric) -> Callable[..., list[Record]]:
    def make(model: str, scores: dict[str, float], **metric: object) -> list[Record]:
        metric = {"higher_is_better": True} | metric
        return [
            make_record(model, task, metrics=(make_metric("accuracy", score, **metric),))
            for task, score in scores.items()
        ]

    return make


def scores_by_model(records: list[Record], **options: object) -> dict[str, GroupScore]:
    return {score.model: score for score in group_scores(leaderboard_rows(records), **options)}  # type: ignore[arg-type]


def test_a_groups_score_is_the_papers_ratio_of_sums(make_glue: Callable[..., list[Record]]) -> None:
    table = load_reference().table(8)
    records = []
    for label in ("BERT-FT", "Hedgehog"):
        row = table.row(label)
        records += make_glue(str(row.model), {k: v for k, v in row.values.items() if k.startswith("glue/")})
    scores = scores_by_model(records)
    assert scores["hedgehog"].percent_recovered == pytest.approx(100 * 661.8 / 666.2)
    assert scores["softmax"].percent_recovered == 100
    assert (scores["hedgehog"].done, scores["hedgehog"].total) == (8, 8)


def test_a_group_with_a_missing_task_is_scored_over_those_that_both_have(
    make_glue: Callable[..., list[Record]],
) -> None:
    records = make_glue("softmax", {"glue/cola": 0.5, "glue/rte": 0.7}) + make_glue("elu", {"glue/cola": 0.4})
    score = scores_by_model(records, tasks_of={})["elu"]
    assert score.percent_recovered == pytest.approx(80)
    assert (score.done, score.total) == (1, 2)


def test_a_group_that_softmax_lacks_has_no_score(make_glue: Callable[..., list[Record]]) -> None:
    score = scores_by_model(make_glue("elu", {"glue/cola": 0.4}))["elu"]
    assert (score.percent_recovered, score.done, score.total) == (None, 0, 8)


def test_a_group_s_own_tasks_count_even_if_nobody_ran_them_and_no_others_do(
    make_glue: Callable[..., list[Record]],
) -> None:
    records = make_glue("softmax", {"glue/cola": 0.5, "glue/wnli": 0.5})
    records += make_glue("elu", {"glue/cola": 0.4, "glue/wnli": 0.4})
    score = scores_by_model(records)["elu"]
    assert score.percent_recovered == pytest.approx(80)
    assert (score.done, score.total) == (1, 8)
    assert scores_by_model(records, tasks_of={"glue": ["glue/wnli"]})["elu"].percent_recovered == pytest.approx(80)
    assert scores_by_model(make_glue("elu", {"glue/wnli": 0.4})) == {}


def test_where_lower_is_better_the_ratio_is_inverted(make_glue: Callable[..., list[Record]]) -> None:
    records = make_glue("softmax", {"ppl/a": 10.0, "ppl/b": 30.0}, higher_is_better=False)
    records += make_glue("elu", {"ppl/a": 20.0, "ppl/b": 30.0}, higher_is_better=False)
    assert scores_by_model(records)["elu"].percent_recovered == pytest.approx(80)


def test_units_that_differ_are_not_summed(make_glue: Callable[..., list[Record]]) -> None:
    records = []
    for model in ("softmax", "elu"):
        records += make_glue(model, {"mix/a": 10.0}) + make_glue(model, {"mix/b": 1.0}, unit="nats")
    assert scores_by_model(records)["elu"].percent_recovered is None


def test_costs_have_no_percentage(make_glue: Callable[..., list[Record]]) -> None:
    records = make_glue("softmax", {"mix/a": 10.0}, unit="ms") + make_glue("elu", {"mix/a": 20.0}, unit="ms")
    assert scores_by_model(records)["elu"].percent_recovered is None


def test_tasks_without_a_group_have_no_group_score(make_record: MakeRecord) -> None:
    assert group_scores(leaderboard_rows([make_record()])) == []


def test_a_task_with_settings_of_its_own_is_in_no_group(make_record: MakeRecord) -> None:
    names = ("summarization:dataset=org/name", "glue/cola:max_length=64")
    assert group_scores(leaderboard_rows([make_record(task=name) for name in names])) == []


def test_a_stand_in_does_not_count_towards_its_group(make_glue: Callable[..., list[Record]]) -> None:
    records = []
    for label in ("Transformer", "Hedgehog"):
        row = load_reference().table(6).row(label)
        values = {name: value for name, value in row.values.items() if name.startswith("lra/")}
        records += make_glue(str(row.model), {**values, "lra/digits": 1_000.0})
    score = scores_by_model(records)["hedgehog"]
    assert score.percent_recovered == pytest.approx(100 * 59.66 / 54.39, abs=0.05)
    assert (score.done, score.total) == (5, 5)
    assert group_scores(leaderboard_rows(make_glue("softmax", {"lra/digits": 0.9}))) == []

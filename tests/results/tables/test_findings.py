"""Findings: only sure sentences, worded by hand for known numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hedgebench.results.record import Metric, Record
from hedgebench.results.tables.aggregate import leaderboard_rows
from hedgebench.results.tables.findings import findings

MakeMetric = Callable[..., Metric]
MakeRecord = Callable[..., Record]
MakeScores = Callable[..., list[str]]


@pytest.fixture
def found_in(make_record: MakeRecord, make_metric: MakeMetric) -> MakeScores:
    """The findings on one task out of models' scores and standard errors, with chance at 0.3 if it is accuracy."""

    def find(scores: dict[str, tuple[float, float | None]], metric: str = "accuracy", higher: bool = True) -> list[str]:
        chance = [make_metric("chance", 0.3, "1", None, None)] if metric == "accuracy" else []
        records = [
            make_record(model, "recall", metrics=(make_metric(metric, value, "1", higher, stderr), *chance))
            for model, (value, stderr) in scores.items()
        ]
        return [finding.text for finding in findings(leaderboard_rows(records))]

    return find


def test_a_task_is_told_in_one_sentence_best_model_first(found_in: MakeScores) -> None:
    scores = {"softmax": (0.99, 0.002), "elu": (0.305, 0.01), "hedgehog": (0.988, 0.002), "relu": (0.9, 0.003)}
    assert found_in(scores) == [
        "hedgehog recovers 99.8% of softmax on recall (one seed), within error; relu 90.9%; elu 30.8%, at chance"
    ]


def test_a_model_that_may_be_as_good_or_much_worse_is_not_named(found_in: MakeScores) -> None:
    assert found_in({"softmax": (0.9, 0.02), "elu": (0.88, 0.03)}) == []
    assert found_in({"softmax": (0.9, 0.002), "elu": (0.88, None)}) == []


def test_where_softmax_has_not_learned_nothing_else_is_said(found_in: MakeScores) -> None:
    (text,) = found_in({"softmax": (0.31, 0.01), "elu": (0.9, 0.01)})
    assert text.startswith("recall: softmax did not learn: accuracy 0.310 ± 0.010, chance 0.3")


def test_without_softmax_nothing_is_said(found_in: MakeScores) -> None:
    assert found_in({"elu": (0.9, 0.01), "relu": (0.5, 0.01)}) == []


def test_correlations_have_no_percentage(found_in: MakeScores) -> None:
    scores = {"softmax": (0.6, 0.01), "elu": (0.3, 0.01), "hedgehog": (0.59, 0.01)}
    assert found_in(scores, "matthews") == [
        "elu has matthews 0.300 on recall (one seed), where softmax has 0.600, significantly worse"
    ]


def test_a_correlation_whose_error_is_not_known_is_not_sure(found_in: MakeScores) -> None:
    assert found_in({"softmax": (0.6, 0.01), "elu": (0.3, None)}, "pearson") == []


def test_softmax_that_ran_at_a_length_with_another_seed_did_not_run_out_of_memory_there(
    make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    def points(seed: int, model: str) -> tuple[Metric, ...]:
        failed = model == "softmax" and seed == 0
        last = make_metric("prefill_ms", None if failed else 9.0, "ms", False, 0.1, 3, {"seq_len": 2048},
                           "oom" if failed else "ok")  # fmt: skip
        return make_metric("prefill_ms", 4.0, "ms", False, 0.1, 3, {"seq_len": 1024}), last

    records = [
        make_record(model, "throughput", seed, metrics=points(seed, model))
        for model in ("softmax", "elu")
        for seed in (0, 1)
    ]
    assert not [f.text for f in findings(leaderboard_rows(records)) if "out of memory" in f.text]


def test_a_divergence_from_softmax_is_told_without_softmax(found_in: MakeScores) -> None:
    scores = {"softmax": (0.0, 0.0), "elu": (0.24, 0.01), "hedgehog": (0.03, 0.01)}
    assert found_in(scores, "attention_kl", higher=False) == [
        "hedgehog has attention_kl 0.030 on recall (one seed); elu attention_kl 0.240"
    ]


def test_a_better_model_is_said_to_be_better(found_in: MakeScores) -> None:
    scores = {"softmax": (20.0, 0.1), "hedgehog": (16.0, 0.1)}
    assert found_in(scores, "perplexity", higher=False) == [
        "hedgehog recovers 125.0% of softmax on recall (one seed), significantly better"
    ]


@pytest.mark.parametrize(
    ("recipe", "seeds", "place"), [("scratch", 1, " (one seed)"), ("scratch", 2, ""), ("zero-shot", 1, "")]
)
def test_scores_of_one_training_say_so(
    recipe: str, seeds: int, place: str, make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    records = [
        make_record(model, "recall", seed, recipe=recipe, metrics=(make_metric("perplexity", value + 1e-3 * seed),))
        for model, value in {"softmax": 10.0, "elu": 20.0}.items()
        for seed in range(seeds)
    ]
    (finding,) = findings(leaderboard_rows(records))
    assert finding.text == f"elu recovers 50.0% of softmax on recall{place}"


def test_of_many_models_those_at_the_ends_are_named(found_in: MakeScores) -> None:
    scores = {"softmax": (0.99, 0.001)} | {f"m{i}": (0.9 - i / 10, 0.001) for i in range(6)}
    assert found_in(scores) == [
        "m0 recovers 90.9% of softmax on recall (one seed); m1 80.8%; m2 70.7%; 2 others between; m5 40.4%"
    ]


def test_costs_are_told_at_the_longest_length_with_the_crossover_and_what_ran_out_of_memory(
    showcase: list[Record],
) -> None:
    costs = [finding for finding in findings(leaderboard_rows(showcase)) if finding.subject != "quality"]
    assert [finding.text for finding in costs] == [
        "hedgehog is 2.1x faster than softmax at 4,096 tokens (prefill), faster from 1,189 on; "
        "elu 1.63x faster, faster from 1,807 on; performer 1.34x faster, faster from 2,525 on",
        "softmax ran out of memory at 8,192 tokens of throughput; "
        "elu, hedgehog, performer, taylor:feature_dim=16 ran at 8,192",
    ]
    assert costs[0].models == ("hedgehog", "elu", "performer")
    assert {finding.comparison.task for finding in costs} == {"throughput"}


def test_a_group_that_was_measured_as_a_whole_stands_for_its_tasks(
    make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    tasks = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
    records = [
        make_record(model, f"glue/{task}", metrics=(make_metric("accuracy", value, "1", True, 0.01),))
        for model, value in {"softmax": 0.8, "elu": 0.6}.items()
        for task in tasks
    ]
    (finding,) = findings(leaderboard_rows(records))
    assert finding.text == "elu recovers 75.0% of softmax on glue, over 8 of 8 tasks (one seed)"
    assert finding.comparison.task == "glue"


def test_findings_of_one_task_say_which_place_they_are_of(make_record: MakeRecord, make_metric: MakeMetric) -> None:
    records = [
        make_record(model, backbone=backbone, metrics=(make_metric("perplexity", value, "1", False, 0.01),))
        for model, value in {"softmax": 10.0, "elu": 20.0}.items()
        for backbone in ("gpt", "gpt2")
    ]
    assert [finding.text for finding in findings(leaderboard_rows(records))] == [
        "elu recovers 50.0% of softmax on wikitext2 (gpt, one seed)",
        "elu recovers 50.0% of softmax on wikitext2 (gpt2, one seed)",
    ]

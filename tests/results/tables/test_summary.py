"""The summary of a run as a value: scores with their standing, groups, and costs as factors of softmax's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from hedgebench.results.record import Metric, Record
from hedgebench.results.tables.aggregate import leaderboard_rows
from hedgebench.results.tables.summary import Summary, SummaryColumn, SummaryEntry, summary

MakeMetric = Callable[..., Metric]
MakeRecord = Callable[..., Record]


def summary_of(records: list[Record]) -> Summary:
    return summary(leaderboard_rows(records))


def column(table: Summary, kind: str, task: str = "") -> SummaryColumn:
    (found,) = (c for c in table.columns if c.kind == kind and task in ("", c.comparison.task))
    return found


def texts(column: SummaryColumn) -> dict[str, str]:
    return {model: entry.text for (model, _), entry in column.entries.items()}


def test_a_score_has_its_standing_its_percentage_and_half_of_its_interval(
    make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    scores = {"softmax": (0.8, 0.003), "hedgehog": (0.792, 0.004), "elu": (0.4, 0.01)}
    records = [
        make_record(model, metrics=(make_metric("accuracy", value, "1", True, stderr),))
        for model, (value, stderr) in scores.items()
    ]
    own = column(summary_of(records), "score")
    assert own.heading == ("wikitext2", "accuracy ↑")
    assert texts(own) == {"softmax": "0.800", "elu": "0.400", "hedgehog": "0.792"}
    standings = {model: entry.standing for (model, _), entry in own.entries.items()}
    assert standings == {"softmax": "", "hedgehog": "same", "elu": "worse"}
    hedgehog = own.entries["hedgehog", 0]
    assert hedgehog.percent == pytest.approx(99)
    # The errors add up to 0.005; the interval of their difference is 1.96 of them.
    assert hedgehog.margin == pytest.approx(100 * 1.96 * 0.005 / 0.8, rel=1e-3)
    assert own.reference == own.entries["softmax", 0]


def test_where_lower_is_better_the_interval_is_that_of_softmax_over_the_score(
    make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    records = [
        make_record(model, metrics=(make_metric("perplexity", value, "1", False, 0.3),))
        for model, value in {"softmax": 20.0, "elu": 25.0}.items()
    ]
    elu = column(summary_of(records), "score").entries["elu", 0]
    assert elu.standing == "worse"
    assert elu.percent == pytest.approx(80)
    assert elu.margin == pytest.approx(80 * 1.96 * math.hypot(0.3, 0.3) / 25, rel=1e-3)


def test_a_model_that_diverged_does_not_take_the_others_decimals(
    make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    records = [
        make_record(model, metrics=(make_metric("perplexity", value, "1", False, stderr),))
        for model, (value, stderr) in {"softmax": (58.44, 0.14), "relu": (58.88, 0.2), "elu": (12000.0, 900.0)}.items()
    ]
    assert texts(column(summary_of(records), "score")) == {"softmax": "58.4", "relu": "58.9", "elu": "12,000.0"}


def test_a_score_without_an_error_has_no_interval(make_record: MakeRecord, make_metric: MakeMetric) -> None:
    records = [
        make_record(model, metrics=(make_metric("accuracy", value, "1", True, None),))
        for model, value in {"softmax": 0.8, "elu": 0.7}.items()
    ]
    assert column(summary_of(records), "score").entries["elu", 0].margin is None


def test_a_failed_cell_keeps_its_line_and_says_why(showcase: list[Record]) -> None:
    table = summary_of(showcase)
    assert table.models[0] == ("softmax", 0)
    assert ("cosformer", 0) in table.models
    assert column(table, "score", "wikitext2").entries["cosformer", 0] == SummaryEntry("OOM", note="OOM")


def test_a_sweep_has_time_and_memory_at_the_longest_length_of_softmax_and_the_crossover(showcase: list[Record]) -> None:
    table = summary_of(showcase)
    time, crossover = column(table, "time"), column(table, "crossover")
    assert (time.length, time.heading) == (4096, ("time", "at 4,096"))
    # softmax ran out of memory at 8192; at 4096 it takes 0.001 · 4096**1.6 ms, and hedgehog 0.07 · 4096.
    assert time.entries["hedgehog", 0].factor == pytest.approx(0.07 * 4096 / (0.001 * 4096**1.6))
    assert texts(time)["hedgehog"] == "2.1x faster"
    assert texts(crossover)["softmax"] == ""
    assert texts(crossover)["hedgehog"] == "1,189"
    assert [c.kind for c in table.columns][-2:] == ["time", "crossover"]


def test_a_model_whose_climb_ended_before_the_longest_length_says_why(showcase: list[Record]) -> None:
    def cut(record: Record) -> Record:
        if (record.task, record.model) != ("throughput", "elu"):
            return record
        ended = [replace(m, value=None, status="oom") if m.at.get("seq_len") == 1024 else m for m in record.metrics]
        return replace(record, metrics=tuple(m for m in ended if m.at.get("seq_len") in (None, 512, 1024)))

    assert texts(column(summary_of([cut(record) for record in showcase]), "time"))["elu"] == "OOM"


def glue(make_record: MakeRecord, make_metric: MakeMetric, worse_by: float) -> list[Record]:
    names = {"cola": "matthews", "sst2": "accuracy", "mrpc": "f1", "stsb": "pearson", "qqp": "f1"}
    names |= dict.fromkeys(("mnli", "qnli", "rte"), "accuracy")
    return [
        make_record(model, f"glue/{task}", metrics=(make_metric(name, value, "1", True, 0.01),))
        for model, value in {"softmax": 0.8, "hedgehog": 0.8 - worse_by}.items()
        for task, name in names.items()
    ]


@pytest.mark.parametrize(("worse_by", "standing"), [(0.008, "same"), (0.02, "worse")])
def test_a_group_is_compared_by_its_sums_which_are_surer_than_each_task(
    make_record: MakeRecord, make_metric: MakeMetric, worse_by: float, standing: str
) -> None:
    table = summary_of(glue(make_record, make_metric, worse_by))
    entry = column(table, "group").entries["hedgehog", 0]
    assert entry.standing == standing
    assert entry.percent == pytest.approx(100 * (0.8 - worse_by) / 0.8)
    # Eight differences, each with an error of 0.01·√2, over a sum of 6.4.
    assert entry.margin == pytest.approx(100 * 1.96 * math.sqrt(8 * 2) * 0.01 / 6.4, rel=1e-3)
    assert [c.kind for c in table.without_members().columns] == ["group"]
    assert len(table.columns) == 9


def test_a_group_over_few_seeds_has_students_interval(make_record: MakeRecord, make_metric: MakeMetric) -> None:
    records = [
        make_record(model, f"lra/{task}", seed, metrics=(make_metric("accuracy", value + away, "1", True, 0.01),))
        for task in ("listops", "text", "retrieval", "image", "pathfinder")
        for model, value, away in (("softmax", 0.8, 0.0), ("hedgehog", 0.78, 0.0))
        for seed, away in enumerate((0.0, 0.02) if (task, model) == ("text", "hedgehog") else (0.0, 0.0))
    ]
    entry = column(summary_of(records), "group").entries["hedgehog", 0]
    # The only error is that of two seeds, 0.01, with one degree of freedom: t is 12.7 at 95 %, over a sum of 4.
    assert entry.margin == pytest.approx(100 * 12.706 * 0.01 / 4.0, rel=1e-3)
    assert entry.standing == "same"


def test_a_group_that_lacks_a_task_is_not_compared_and_says_of_how_many_it_is(
    make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    records = glue(make_record, make_metric, 0.1)[:-1]
    own = column(summary_of(records), "group")
    assert own.heading[2] == "8 of 8 tasks"
    entry = own.entries["hedgehog", 0]
    assert (entry.text, entry.standing, entry.margin) == ("87.5 over 7", "", None)


def test_columns_of_one_task_say_what_sets_them_apart(make_record: MakeRecord) -> None:
    records = [make_record("elu"), make_record("elu", backbone="gpt2", recipe="zero-shot")]
    records.append(make_record("elu", "stdlib", scale="small"))
    apart = {c.comparison.task + c.comparison.backbone: c.apart for c in summary_of(records).columns}
    assert apart == {
        "wikitext2gpt": ("gpt", "scratch"),
        "wikitext2gpt2": ("gpt2", "zero-shot"),
        "stdlibgpt": (),
    }


def test_names_of_data_stand_whole_and_digests_are_shortened(make_record: MakeRecord) -> None:
    def apart(*records: Record) -> list[tuple[str, ...]]:
        return [column.apart for column in summary_of(list(records)).columns if column.kind == "score"]

    def of(fingerprint: str, model: str) -> Record:
        record = make_record(model)
        assert record.data is not None
        return replace(record, data=replace(record.data, fingerprint=fingerprint))

    assert apart(of("0123456789abcdef" * 4, "softmax"), of("uniform tokens, seed 0", "elu")) == [
        ("456789abcdef",),
        ("uniform tokens, seed 0",),
    ]


def test_times_on_a_busy_machine_have_no_factor(showcase: list[Record]) -> None:
    def slowed(record: Record) -> Record:
        if (record.task, record.model) != ("throughput", "elu"):
            return record
        paced = tuple(replace(m, samples=(2.0, 2.0)) if m.name == "pace_ms" else m for m in record.metrics)
        return replace(record, metrics=paced)

    own = column(summary_of([slowed(record) for record in showcase]), "time")
    assert (own.entries["elu", 0].text, own.entries["elu", 0].factor) == ("not quiet", None)
    assert own.entries["hedgehog", 0].factor is not None


def test_without_rows_there_is_nothing() -> None:
    assert summary([]) == Summary((), ())

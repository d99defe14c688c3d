from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from hedgebench.results.record import Failure, Metric, Record
from hedgebench.results.tables.aggregate import leaderboard_rows
from hedgebench.results.tables.leaderboard import (
    COLUMNS,
    leaderboard_csv,
    leaderboard_json,
    leaderboard_markdown,
)
from hedgebench.results.tables.tables import sections

MakeMetric = Callable[..., Metric]
MakeRecord = Callable[..., Record]


def parsed(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_the_csv_has_the_columns_of_the_contract_in_order(make_record: MakeRecord) -> None:
    header = (
        "model,backbone,task,recipe,scale,metric,at,value,stderr,n,unit,higher_is_better,seeds,percent_recovered,status"
    )
    assert leaderboard_csv([make_record()]).split("\r\n")[0] == header
    assert ",".join(COLUMNS) == header


def test_the_csv_keeps_numbers_at_full_precision(make_record: MakeRecord, make_metric: MakeMetric) -> None:
    value = 0.1 + 0.2
    (row,) = parsed(leaderboard_csv([make_record(metrics=(make_metric(value=value),))]))
    assert float(row["value"]) == value
    assert row["higher_is_better"] == "false"


def test_the_csv_quotes_what_needs_quotes(make_record: MakeRecord) -> None:
    model = 'odd,"name"\nhere'
    text = leaderboard_csv([make_record(model)])
    assert parsed(text)[0]["model"] == model
    assert text.endswith("\r\n")


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1", "@a", "\t=1", "\r=1"])
def test_a_spreadsheet_runs_no_text_of_the_csv(make_record: MakeRecord, make_metric: MakeMetric, name: str) -> None:
    record = make_record(name, task=name, metrics=(make_metric(value=-1.5),))
    (row,) = parsed(leaderboard_csv([record]))
    assert (row["model"], row["task"], row["value"]) == (f"'{name}", f"'{name}", "-1.5")


def test_a_failed_cell_is_a_row_with_its_status_and_no_value(make_record: MakeRecord) -> None:
    failed = make_record(status="error", metrics=(), main_metric="accuracy", error=Failure("E", "m"))
    (row,) = parsed(leaderboard_csv([failed]))
    assert (row["metric"], row["value"], row["n"], row["status"]) == ("accuracy", "", "0", "error")


def test_the_json_holds_the_same_rows_and_stays_valid_for_numbers_it_cannot_hold(
    make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    (row,) = json.loads(leaderboard_json([make_record(metrics=(make_metric(value=math.inf),))]))
    assert tuple(row) == COLUMNS
    assert row["value"] == "inf"


def test_markdown_pivots_models_against_tasks(showcase: list[Record]) -> None:
    lines = leaderboard_markdown(showcase).splitlines()
    assert "## gpt · scratch · smoke" in lines
    columns = (
        "glue/cola<br>matthews ↑, chance 0",
        "glue/sst2<br>accuracy ↑",
        "wikitext2<br>perplexity ↓",
        "glue<br>% of softmax ↑",
    )
    assert f"| model | {' | '.join(columns)} |" in lines
    assert "| cosformer | – | – | OOM | – |" in lines
    scores = "0.530 ± 0.030 <sup>1=</sup> | 0.910 ± 0.010 (97.8%) <sup>1=</sup> | 21.400 ± 0.058 (93.9%)"
    assert f"| hedgehog | {scores} <sup>2</sup> | 95.4 over 2 of 8 |" in lines
    best = "0.580 ± 0.030 <sup>1=</sup> | 0.930 ± 0.010 <sup>1=</sup> | **20.100** ± 0.058 <sup>1</sup>"
    assert any(line.startswith(f"| softmax | {best} |") for line in lines)
    assert "- Compared for marks and ranks: glue/cola, glue/sst2, wikitext2: not paired." in lines
    assert any(line.startswith("| performer |") and line.endswith("| 93.5 over 1 of 8 |") for line in lines)


def test_a_sweep_has_its_own_table_with_lengths_as_columns(showcase: list[Record]) -> None:
    lines = leaderboard_markdown(showcase).splitlines()
    assert "### throughput: prefill_ms ↓, batch_size=1" in lines
    assert "| model | seq_len=512 | 1024 | 2048 | 4096 | 8192 |" in lines
    assert any(line.startswith("| softmax | **21.6** ±") and line.endswith("| OOM |") for line in lines)


def test_a_main_metric_at_a_single_point_stands_among_the_main_metrics(
    make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    def headline(model: str, value: float) -> Record:
        metric = make_metric("tokens_per_s", value, "tokens/s", True, 5.0, at={"seq_len": 512})
        pace = replace(make_metric("pace_ms", 1.0, "ms", None, at={"work": "calls"}), samples=(1.0, 1.0))
        return make_record(model, metrics=(metric, pace))

    text = leaderboard_markdown([headline("softmax", 100.0), headline("elu", 250.0)])
    assert "| model | wikitext2<br>tokens_per_s ↑, seq_len=512 |" in text
    assert "| elu | **250.0** ± 5.0 (2.5x faster) <sup>1</sup> |" in text
    assert text.count("###") == 1  # the pace


def test_a_cell_that_failed_before_its_sweep_is_shown_in_the_sweeps_table(
    make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    points = tuple(make_metric("prefill_ms", 5.0, at={"seq_len": n}) for n in (1, 2))
    failed = make_record("elu", status="error", metrics=(), main_metric="prefill_ms")
    assert "| elu | error | error |" in leaderboard_markdown([make_record(metrics=points), failed])


@pytest.mark.parametrize(
    "other", [{"scale": "small"}, {"recipe": "zero-shot"}, {"backbone": "bert-base"}, {"limit": 5}]
)
def test_what_cannot_be_compared_stands_in_another_table(make_record: MakeRecord, other: dict[str, object]) -> None:
    text = leaderboard_markdown([make_record("softmax"), make_record("elu", **other)])
    assert text.count("\n## ") == 2
    assert "**" not in text


def test_other_data_is_another_column(make_record: MakeRecord) -> None:
    record = make_record("softmax")
    assert record.data is not None
    other = make_record("elu", data=type(record.data)("embedded", "", "beef", "embedded"))
    text = leaderboard_markdown([record, other])
    assert "on embedded@beef" in text
    assert "wikitext2 was measured on 2 different data" in text
    assert "**" not in text
    assert "<sup>" not in text


def test_another_task_version_is_neither_averaged_nor_compared_and_this_is_said(make_record: MakeRecord) -> None:
    records = [make_record(model, peer_key=key) for model in ("softmax", "elu") for key in ("old", "new")]
    text = leaderboard_markdown(records[:1] + records[3:])
    assert "**" not in text
    assert "(100.0%)" not in text
    assert "wikitext2 was measured under 2 different conditions (equal settings, so another task version" in text
    both = leaderboard_markdown(records)
    assert "softmax, softmax (settings 2) are not averaged: their settings are equal; another task version" in both
    assert both.count("(100.0%)") == 2


def test_a_seed_that_failed_is_noted_beside_the_others(make_record: MakeRecord) -> None:
    failed = make_record(seed=1, status="timeout", metrics=(), main_metric="perplexity")
    assert "20.00 ± 0.25 (seed 1: timeout)" in leaderboard_markdown([make_record(seed=0), failed])


def test_markdown_and_html_in_a_name_stay_text(make_record: MakeRecord) -> None:
    assert r"| a\|b\*c\*&lt;script&gt; |" in leaderboard_markdown([make_record("a|b*c*<script>")])


def test_no_records_give_a_leaderboard_that_says_so() -> None:
    assert "No results yet." in leaderboard_markdown([])
    assert leaderboard_csv([]) == ",".join(COLUMNS) + "\r\n"
    assert json.loads(leaderboard_json([])) == []


def test_every_format_is_the_same_for_any_order_of_records(showcase: list[Record]) -> None:
    for text in (leaderboard_csv, leaderboard_json, leaderboard_markdown):
        assert text(showcase) == text(showcase[::-1])


def test_budgets_stand_beside_the_scores_and_unequal_ones_are_told(make_trained: Callable[..., Record]) -> None:
    """Numbers that differ from softmax's are factors of it; seconds, whose machine was not watched, are not."""
    records = [make_trained("softmax", 100, 3.0, 4096), make_trained("elu", 250, 6.0, 1024)]
    lines = leaderboard_markdown(records).splitlines()
    assert "### wikitext2: budget of training (machine not checked to be quiet)" in lines
    heads = " | ".join(f"train<br>{name}" for name in ("steps", "tokens", "trained_parameters", "seconds"))
    assert f"| model | wikitext2<br>accuracy ↑ | {heads} | parameters | state_bytes |" in lines
    assert "| softmax | 0.900 ± 0.010 | 100 | 10,000 | 5,000 | 3 | 6,000 | 4.00 KiB |" in lines
    given = "250 (2.5x more) | 25,000 (2.5x more) | 5,000 | 6 | 6,000 | 1.00 KiB (4x smaller)"
    assert f"| elu | 0.900 ± 0.010 | {given} |" in lines
    said = "- wikitext2: models were not given equal budgets: train steps from 100 (softmax) to 250 (elu)."
    assert said in lines
    twice = [*records, *(replace(record, task="mqar") for record in records)]
    for every, is_folded in ((records, [False]), (twice, [True, True])):
        (section,) = sections(leaderboard_rows(every))
        assert [table.is_folded for table in section.secondary] == is_folded

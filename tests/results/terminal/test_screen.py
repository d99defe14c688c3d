"""What a run ends with: one table within 80 columns, a legend for its signs, and its findings."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from hedgebench.results.record import Metric, Record
from hedgebench.results.terminal.screen import print_summary

MakeMetric = Callable[..., Metric]
MakeRecord = Callable[..., Record]


def printed(records: list[Record], width: int = 80, terminal: bool = False) -> str:
    file = io.StringIO()
    print_summary(
        records, Console(file=file, width=width, force_terminal=terminal, color_system="standard" if terminal else None)
    )
    return file.getvalue()


def glue(make_record: MakeRecord, make_metric: MakeMetric) -> list[Record]:
    tasks = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
    return [
        make_record(model, f"glue/{task}", scale="small", metrics=(make_metric("accuracy", value, "1", True, 0.01),))
        for model, value in {"softmax": 0.8, "hedgehog:map=softmax:window=64:feature_dim=128": 0.6, "elu": 0.5}.items()
        for task in tasks
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_is_wider_than_80_columns_and_no_cell_is_wrapped(
    showcase: list[Record], make_record: MakeRecord, make_metric: MakeMetric, terminal: bool
) -> None:
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed(showcase + glue(make_record, make_metric), terminal=terminal))
    assert max(map(len, text.splitlines())) <= 80
    blocks = text.partition("\n\n+ better")[0].split("\n\n")
    assert len(blocks) > 1
    assert {block.count("\nsoftmax ") for block in blocks} == {1}
    assert {len(block.partition("─\n")[2].splitlines()) for block in blocks} == {7}


def test_a_console_that_is_no_terminal_is_80_columns_wide(showcase: list[Record]) -> None:
    assert printed(showcase, 200) == printed(showcase, 80)
    assert printed(showcase, 200, terminal=True) != printed(showcase, 80, terminal=True)


def test_tasks_of_a_group_become_one_column_where_they_do_not_fit(
    make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    records = glue(make_record, make_metric)
    assert "glue/sst2" not in printed(records).partition("\n\n")[0]
    assert "8 of 8 tasks" in printed(records)
    assert "62.5 -" in printed(records)
    assert "glue/sst2" in printed(records, 300, terminal=True)


def test_columns_that_do_not_fit_stand_below_with_all_models_again(showcase: list[Record]) -> None:
    blocks = printed(showcase, 60).partition("\n\n+ better")[0].split("\n\n")
    assert len(blocks) == 2
    assert all(re.search(rf"^{name} ", block, re.MULTILINE) for block in blocks for name in ("elu", "cosformer"))


def test_the_legend_has_the_signs_that_occur_and_no_others(make_record: MakeRecord, make_metric: MakeMetric) -> None:
    pair = [
        make_record(model, metrics=(make_metric("accuracy", value, "1", True, 0.01),))
        for model, value in {"softmax": 0.8, "elu": 0.6}.items()
    ]
    text = printed(pair)
    assert "+ better, - worse, = not significantly different from softmax (p < 0.05, Holm" in text
    assert "↑ higher is better" in text
    assert not [sign for sign in ("↓", "–", "OOM", "undecided", "faster", "not quiet") if sign in text]
    assert "where there is one seed, marks lack the spread of training" in text
    seeds = [replace(record, seed=seed, cell_id=f"{record.model}{seed}") for record in pair for seed in (0, 1)]
    assert "one seed" not in printed(seeds)
    assert "one seed" not in printed([replace(record, recipe="zero-shot") for record in pair])
    failed = replace(pair[1], model="relu", status="oom", metrics=(), cell_id="failed")
    assert "OOM: out of memory" in printed([*pair, failed])
    assert "– not measured" in printed([*pair, make_record("softmax", "stdlib")])


def test_costs_are_factors_of_softmaxs_and_long_headings_break(showcase: list[Record]) -> None:
    text = printed(showcase)
    assert re.search(r"^hedgehog .* 0\.48x \+ +1,189$", text, re.MULTILINE)
    assert re.search(r"^softmax .* 602 ms +$", text, re.MULTILINE)
    recall = [replace(record, task="associative_recall") for record in showcase if record.task == "glue/sst2"]
    assert printed(recall).splitlines()[0].split() == ["associative_"]


def test_findings_come_last_and_say_each_thing_once(showcase: list[Record]) -> None:
    text = printed(showcase)
    assert text.index("* hedgehog recovers 93.9% of softmax on wikitext2") > text.index("gpt · scratch · smoke")
    assert "mean rank" not in text
    marked = [line for line in text.splitlines() if line.startswith("* ")]
    assert len(marked) == len(set(marked)) > 3


def test_what_percentages_are_of_is_said_with_them(make_record: MakeRecord, make_metric: MakeMetric) -> None:
    pair = [
        make_record(model, recipe="finetuned-conversion", metrics=(make_metric("accuracy", value, "1", True, 0.01),))
        for model, value in {"softmax": 0.8, "elu": 0.6}.items()
    ]
    assert "Percentages are of softmax, the teacher" in " ".join(printed(pair).split())


def test_long_names_are_cut_in_the_middle_unless_they_would_be_alike(make_record: MakeRecord) -> None:
    begin, end = "hedgehog:feature_dim=16:map=", ":tied=true:window=64"
    one = printed([make_record(f"{begin}softmax{end}")])
    assert f"{begin}softmax{end}" not in one.partition("\n\n")[0]
    assert "…" in one
    two = printed([make_record(f"{begin}{each}{end}") for each in ("softmax", "exp_max")])
    assert f"{begin}exp_max{end}" in two


def test_names_are_not_read_as_markup(make_record: MakeRecord) -> None:
    assert "[red]x[/]" in printed([make_record("[red]x[/]")])


def test_no_color_is_honoured(showcase: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[33m" in printed(showcase, terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[33m" not in printed(showcase, terminal=True)


def test_no_records_are_said_to_be_none() -> None:
    assert printed([]) == "No results yet.\n"

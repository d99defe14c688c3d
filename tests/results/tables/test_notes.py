from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from hedgebench.results.record import DataIdentity, Metric, Record
from hedgebench.results.tables.aggregate import group_seeds
from hedgebench.results.tables.latex import escape_latex
from hedgebench.results.tables.leaderboard import leaderboard_latex
from hedgebench.results.tables.notes import apart_notes, section_notes
from hedgebench.results.terminal.details import print_leaderboard

MakeRecord = Callable[..., Record]
MakeMetric = Callable[..., Metric]


def notes(*records: Record) -> list[str]:
    return [note for said in apart_notes(group_seeds(records)).values() for note in said]


def test_cells_of_one_kind_need_no_note(make_record: MakeRecord) -> None:
    assert notes(*(make_record(model, seed=seed) for model in ("softmax", "elu") for seed in (0, 1))) == []


def test_other_data_is_told_once_for_each_task(make_record: MakeRecord) -> None:
    other = DataIdentity("wikitext", "abc123", "beef", "mirror")
    (note,) = notes(make_record(), make_record("elu", data=other), make_record("relu", data=other))
    assert note.startswith("wikitext2 was measured on 2 different data: each has its own column")


def test_settings_that_differ_are_named_with_their_values(make_record: MakeRecord) -> None:
    records = [make_record(settings={"train.lr": lr, "train.steps": 5}, peer_key=str(lr)) for lr in (0.01, 0.02)]
    conditions, variants = notes(*records)
    assert "under 2 different conditions (train.lr 0.01 or 0.02)" in conditions
    assert variants == "wikitext2: softmax, softmax (settings 2) are not averaged: train.lr 0.01 or 0.02."


def test_of_many_settings_the_first_are_named_and_the_others_counted(make_record: MakeRecord) -> None:
    records = [make_record(settings={f"train.{name}": value for name in "abcdefgh"}) for value in (1, 2)]
    (note,) = notes(*records)
    assert "train.e 1 or 2 and 3 more settings" in note
    assert "train.f" not in note


def test_a_setting_that_one_model_lacks_is_unset(make_record: MakeRecord) -> None:
    (note,) = notes(make_record(settings={}), make_record(settings={"train.lr": 0.1}))
    assert "train.lr 0.1 or unset" in note


def test_the_same_seed_twice_is_told(make_record: MakeRecord) -> None:
    (note,) = notes(make_record(cell_id="a"), make_record(cell_id="b"))
    assert "their settings are equal; another task version, device, code or run sets them apart" in note


def every_note(*records: Record) -> list[str]:
    return [note for said in section_notes(group_seeds(records)).values() for note in said]


@pytest.mark.parametrize(("accuracy", "is_told"), [(0.523, True), (0.65, False)])
def test_a_teacher_at_the_level_of_chance_is_told(
    accuracy: float, is_told: bool, make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    metrics = (make_metric("accuracy", accuracy, "1", True, 0.044), make_metric("majority_accuracy", 0.5, "1", None))
    notes = every_note(make_record("softmax", "glue/rte", recipe="pretrained-conversion", metrics=metrics))
    told = (
        "glue/rte: the teacher, softmax, did not learn: accuracy 0.523 ± 0.044, majority class 0.5; percentages of it "
        "have no meaning."
    )
    assert notes == ([told] if is_told else [])


def test_an_f1_is_held_against_that_of_always_answering_class_1(
    make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    levels = (make_metric("majority_accuracy", 0.684, "1", None), make_metric("constant_f1", 0.812, "1", None))
    softmax = make_record("softmax", "glue/mrpc", metrics=(make_metric("f1", 0.82, "1", True, 0.01), *levels))
    (note,) = every_note(softmax)
    assert note.startswith("glue/mrpc: softmax did not learn: f1 0.820 ± 0.010, always class 1 0.81")


def test_a_perplexity_is_held_against_that_of_token_frequencies(
    make_record: MakeRecord, make_metric: MakeMetric
) -> None:
    level = make_metric("unigram_perplexity", 300.0, "1", None)
    (note,) = every_note(make_record(metrics=(make_metric(value=310.0), level)))
    assert note.startswith("wikitext2: softmax did not learn: perplexity 310.00 ± 0.25, unigram 300")
    assert every_note(make_record(metrics=(make_metric(value=200.0), level))) == []


@pytest.mark.parametrize("recipe", ["finetuned-conversion", "scratch-conversion"])
def test_conversions_with_a_teacher_say_which_softmax_percentages_are_of(recipe: str, make_record: MakeRecord) -> None:
    pair = [make_record(model, recipe=recipe) for model in ("softmax", "hedgehog")]
    (note,) = every_note(*pair)
    assert "Percentages are of softmax, the teacher, which took fewer training steps than its students" in note
    assert note.endswith("softmax:continued=true, which was not run.")
    (note,) = every_note(*pair, make_record("softmax:continued=true", recipe=recipe))
    assert note.endswith("the control that took as many is softmax:continued=true.")


def test_the_terminal_and_latex_say_too_which_softmax_percentages_are_of(make_record: MakeRecord) -> None:
    pair = [make_record(model, recipe="finetuned-conversion") for model in ("softmax", "hedgehog")]
    (note,) = every_note(*pair)
    file = io.StringIO()
    print_leaderboard(pair, Console(file=file, width=80))
    assert note in " ".join(file.getvalue().split())
    (caption,) = [line for line in leaderboard_latex(pair).splitlines() if line.startswith(r"\caption")]
    assert escape_latex(note) in caption
    scratch = [make_record(model) for model in ("softmax", "hedgehog")]
    file = io.StringIO()
    print_leaderboard(scratch, Console(file=file, width=80))
    assert "Percentages" not in file.getvalue() + leaderboard_latex(scratch)


def test_correlations_in_a_groups_sum_are_told(make_record: MakeRecord, make_metric: MakeMetric) -> None:
    metrics = {"glue/cola": "matthews", "glue/sst2": "accuracy"}
    records = [
        make_record(task=task, metrics=(make_metric(name, 0.5, "1", True, 0.01),)) for task, name in metrics.items()
    ]
    (note,) = every_note(*records)
    assert note.startswith("glue: the sums behind % of softmax contain glue/cola, scored by a correlation")

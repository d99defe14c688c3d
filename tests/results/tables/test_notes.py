from __future__ import annotations

from collections.abc import Callable

from hedgebench.results.record import DataIdentity, Record
from hedgebench.results.tables.aggregate import group_seeds
from hedgebench.results.tables.notes import apart_notes

MakeRecord = Callable[..., Record]


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

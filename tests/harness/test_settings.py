"""What `--set` changes, and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgebench.adapters.base import Settings, Value
from hedgebench.harness.settings import apply_overrides, check_overrides, parse_value
from hedgebench.results.names import UnknownNameError, UsageError

GROUPS: dict[str, Settings] = {
    "task": {"length": 128, "lengths": (1, 2), "tokenizer": "auto", "stride": None},
    "backbone": {"rope": False},
    "train": {"lr": 0.1, "steps": 60},
}


def test_a_bare_key_is_the_tasks_and_a_dotted_one_its_groups() -> None:
    changed = apply_overrides(GROUPS, {"length": "8", "train.lr": "1", "backbone.rope": "true", "task.tokenizer": "x"})
    assert changed["task"] == {"length": 8, "lengths": (1, 2), "tokenizer": "x", "stride": None}
    assert changed["train"] == {"lr": 1.0, "steps": 60}
    assert changed["backbone"] == {"rope": True}


@pytest.mark.parametrize(
    ("given", "epochs", "steps"),
    [
        ({}, 2.0, 500),
        ({"distill.steps": "10"}, 0.0, 10),
        ({"distill.steps": "10", "distill.epochs": "3"}, 3.0, 10),
        ({"distill.epochs": "3"}, 3.0, 500),
        ({"train.steps": "10"}, 2.0, 500),
    ],
)
def test_a_number_of_steps_counts_and_not_the_default_number_of_epochs(
    given: dict[str, str], epochs: float, steps: int
) -> None:
    changed = apply_overrides({"distill": {"steps": 500, "epochs": 2.0}, "train": {"steps": 5}}, given)["distill"]
    assert changed == {"steps": steps, "epochs": epochs}


def test_the_defaults_stay_as_they_are() -> None:
    apply_overrides(GROUPS, {"length": "8"})
    assert GROUPS["task"]["length"] == 128


def test_keys_of_other_cells_are_left_alone() -> None:
    assert apply_overrides(GROUPS, {"distill.lr": "1", "image_size": "8"}) == GROUPS


def test_every_override_must_change_some_cell() -> None:
    check_overrides(["length", "task.length", "train.lr"], [{"task": {}}, GROUPS])
    with pytest.raises(UsageError, match=r"unknown setting 'train.stepz'; did you mean train.steps"):
        check_overrides(["train.stepz"], [GROUPS])


def test_what_is_allowed_are_the_keys_of_the_group_or_those_of_the_task_and_the_groups() -> None:
    cells: list[dict[str, Settings]] = [{"task": {"stride": 1, "batch": 2}, "train": {"lr": 0.1, "steps": 3}}]
    with pytest.raises(UnknownNameError, match=r"unknown setting 'train\.zzz'.* \(allowed: train\.lr, train\.steps\)$"):
        check_overrides(["train.zzz"], cells)
    for key in ("zzz", "zzz.qqq"):
        with pytest.raises(UnknownNameError, match=rf"unknown setting '{key}' \(allowed: batch, stride, train\.KEY\)$"):
            check_overrides([key], cells)


def test_a_key_without_its_group_is_answered_with_the_groups_that_have_it() -> None:
    cells: list[dict[str, Settings]] = [GROUPS, {"distill": {"lr": 0.01}}]
    with pytest.raises(UsageError, match=r"unknown setting 'lr'; did you mean distill\.lr or train\.lr\?$"):
        check_overrides(["lr"], cells)
    with pytest.raises(UsageError, match=r"unknown setting 'finetune.steps'; did you mean train\.steps\?$"):
        check_overrides(["finetune.steps"], cells)


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [
        ("8", 1, 8),
        ("1e-3", 0.1, 0.001),
        ("1", 0.1, 1.0),
        ("true", False, True),
        ("1, 2", (3,), (1, 2)),
        ("7", (), (7,)),
        ("none", 5, None),
        ("3", None, 3),
        ("0.5", None, 0.5),
        ("text", None, "text"),
        ("x=y", "auto", "x=y"),
    ],
)
def test_a_value_takes_the_type_of_its_default(text: str, default: Value, value: Value) -> None:
    parsed = parse_value("key", text, default)
    assert (parsed, type(parsed)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "default", "allowed"),
    [
        ("x", 1, "int"),
        ("1.5", 1, "int"),
        ("", 1, "int"),
        ("x", 0.1, "float"),
        ("yes", False, "bool"),
        ("1,x", (1,), "a list of whole numbers"),
    ],
)
def test_a_value_of_another_type_is_refused_with_the_type_allowed(text: str, default: Value, allowed: str) -> None:
    with pytest.raises(UsageError, match=f"setting train.key is '{text}'; allowed: {allowed}"):
        parse_value("train.key", text, default)


def test_none_is_refused_outside_of_the_task_whose_settings_check_it() -> None:
    assert apply_overrides(GROUPS, {"length": "none", "task.lengths": "none"})["task"]["length"] is None
    for key, allowed in {"train.lr": "float", "train.steps": "int", "backbone.rope": "bool"}.items():
        with pytest.raises(UsageError, match=f"setting {key} is 'none'; allowed: {allowed}"):
            apply_overrides(GROUPS, {key: "none"})


@given(st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.lists(st.integers()).map(tuple)))
def test_a_value_is_read_back_as_it_is_written(value: int | float | bool | tuple[int, ...]) -> None:
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    text = text.lower() if isinstance(value, bool) else text
    assert parse_value("key", text, value) == value

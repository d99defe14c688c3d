"""Tests of tasks/settings.py."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from hedgebench.adapters.base import Value
from hedgebench.tasks.settings import as_settings, parse_settings


@dataclass(frozen=True)
class Example:
    count: int = 1
    share: float = 0.5
    stride: int | None = None
    lengths: tuple[int, ...] = (1, 2)
    join: bool = True


def test_settings_survive_the_round_trip() -> None:
    example = Example(count=3, stride=4, lengths=(8,), join=False)
    assert parse_settings(Example, as_settings(example)) == example


def test_missing_settings_take_their_defaults() -> None:
    assert parse_settings(Example, {"count": 7}) == Example(count=7)


def test_a_list_becomes_a_tuple_and_an_int_a_float() -> None:
    parsed = parse_settings(Example, {"lengths": [4, 5], "share": 1})  # type: ignore[dict-item]
    assert parsed.lengths == (4, 5)
    assert isinstance(parsed.share, float)


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown setting of this task 'strid'; did you mean stride\?"):
        parse_settings(Example, {"strid": 3})


@pytest.mark.parametrize(
    ("name", "value"),
    [("count", 1.5), ("count", True), ("join", 1), ("lengths", 3), ("stride", "none"), ("count", None)],
)
def test_a_value_of_the_wrong_type_is_named(name: str, value: Value) -> None:
    with pytest.raises(ValueError, match=f"setting {name} is {value!r}"):
        parse_settings(Example, {name: value})

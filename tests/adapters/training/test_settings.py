from __future__ import annotations

import pytest

from hedgebench.adapters.training.settings import TrainSettings

GIVEN = {"steps": 10, "batch_size": 4, "lr": 0.1}


def test_values_given_take_the_place_of_defaults_and_what_is_for_others_is_passed_over() -> None:
    settings = TrainSettings.of({**GIVEN, "accumulate": 2, "context_length": 64})
    assert settings == TrainSettings(steps=10, batch_size=4, lr=0.1, accumulate=2)


@pytest.mark.parametrize("name", ["steps", "batch_size", "accumulate", "eval_rows", "eval_batch_size"])
def test_counts_are_at_least_one(name: str) -> None:
    with pytest.raises(ValueError, match=rf"train\.{name} is 0; allowed: 1 or more"):
        TrainSettings.of({**GIVEN, name: 0})


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("warmup", 50.0, "from 0 to 1, a share of the steps"),
        ("warmup", -1.0, "from 0 to 1"),
        ("beta2", 1.0, "from 0 to below 1"),
    ],
)
def test_shares_are_at_most_one(name: str, value: float, allowed: str) -> None:
    with pytest.raises(ValueError, match=rf"train\.{name} is {value}; allowed: {allowed}"):
        TrainSettings.of({**GIVEN, name: value})
    assert TrainSettings.of({**GIVEN, "warmup": 1.0}).warmup == 1


@pytest.mark.parametrize("name", ["lr", "weight_decay", "clip_norm", "checkpoint_every_s"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_numbers_are_not_negative(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"train\.{name} is {value}; allowed: 0 or more"):
        TrainSettings.of({**GIVEN, name: value})


@pytest.mark.parametrize("name", ["patience", "eval_every"])
def test_intervals_are_not_negative(name: str) -> None:
    with pytest.raises(ValueError, match=rf"train\.{name} is -1; allowed: 0 or more"):
        TrainSettings.of({**GIVEN, name: -1})


def test_parts_must_divide_the_batch() -> None:
    with pytest.raises(ValueError, match=r"train\.accumulate is 3; it must divide train\.batch_size 4"):
        TrainSettings.of({**GIVEN, "accumulate": 3})

from __future__ import annotations

from typing import Any

import pytest

from hedgebench.harness.audit.choices import answer_collapse


def row(target: Any, *likely: float) -> dict[str, Any]:
    return {"document": 0, "target": target, "responses": [[[each, False]] for each in likely]}


def test_a_model_that_always_answers_with_one_letter_is_told() -> None:
    rows = [row(i % 4, -5.0, -1.0, -4.0, -6.0) for i in range(20)]
    (share, targets), (note,) = answer_collapse(rows)
    assert (share.value, targets.value, share.n) == (1.0, 0.25, 20)
    assert note == "answers collapse: 100% of 20 answers are choice 2, which is right for 25% of the questions"


def test_answers_that_are_spread_or_right_are_no_collapse() -> None:
    spread = [row(0, *(-1.0 if j == i % 4 else -5.0 for j in range(4))) for i in range(20)]
    (share, _), notes = answer_collapse(spread)
    assert share.value == 0.25
    assert notes == []
    (share, targets), notes = answer_collapse([row("1", -5.0, -1.0)] * 9)
    assert (share.value, targets.value, notes) == (1.0, 1.0, [])


@pytest.mark.parametrize(
    "other",
    [
        {"label": 1, "prediction": 1},
        {"target": "Al", "responses": [["a text"]]},
        {"target": "7", "responses": [[[-1.0, True]], [[-2.0, True]]]},
        {"target": 0, "responses": [["-3.5"], ["text"]]},
    ],
)
def test_rows_of_other_tasks_do_not_count(other: dict[str, Any]) -> None:
    assert answer_collapse([other]) == ([], [])

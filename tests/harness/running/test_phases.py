"""Phases of a cell: their seconds, and the counts that are told of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hedgebench.harness.running import phases
from hedgebench.harness.running.phases import Phases, rows_in


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Messages of a `Phases` whose messages may follow each other at once."""
    monkeypatch.setattr(phases, "MESSAGES_EVERY_S", -1.0)
    return []


class Reader(nn.Module):
    """Embeds tokens by name or by place, as models of transformers and our own do."""

    def __init__(self, named: bool) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 2))
        self.named = named

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        embedded = self.inner[0](input=ids) if self.named else self.inner[0](ids)
        return torch.as_tensor(self.inner[1](embedded))


@pytest.mark.parametrize("named", [False, True])
def test_rows_are_counted_as_the_model_reads_them_and_decoded_tokens_are_not(told: list[Any], named: bool) -> None:
    found, model = Phases(told.append), Reader(named)
    with found.phase("predict"):
        with found.rows(model, 5):
            for shape in ((3, 4), (3, 1), (2, 4)):
                model(torch.zeros(shape, dtype=torch.long))
        model(torch.zeros((9, 4), dtype=torch.long))
    assert told == [
        {"phase": "predict"},
        {"phase": "predict", "done": 3, "total": 5, "unit": "rows"},
        {"phase": "predict", "done": 5, "total": 5, "unit": "rows"},
    ]
    assert found.timings_s["predict"] > 0


def test_steps_are_told_of_the_phase_that_trains(told: list[Any]) -> None:
    found = Phases(told.append)
    with found.phase("distill"):
        found.steps(3, 10, 0.5)
    assert told[-1] == {"phase": "distill", "done": 3, "total": 10, "unit": "it", "loss": 0.5}


def test_messages_keep_a_distance_but_the_last_step_is_told() -> None:
    told: list[Any] = []
    found = Phases(told.append)
    with found.phase("train"):
        for step in range(1, 101):
            found.steps(step, 100, 0.5)
    assert [message["done"] for message in told[1:]] == [1, 100]


def test_a_phase_that_comes_again_adds_its_seconds() -> None:
    found = Phases(lambda _: None)
    with found.phase("swap"):
        first = dict(found.timings_s)
    before = found.timings_s["swap"]
    with found.phase("swap"):
        pass
    assert first == {}
    assert found.timings_s["swap"] > before


class Split:
    """A split as a task may hold it."""

    labels = (1, 0, 1)


class Documents:
    """Test data that are read in windows."""

    documents = ("a", "b")


@pytest.mark.parametrize(
    ("test", "rows"), [([1, 2], 2), (Split(), 3), ((Split(), Split()), 6), (Documents(), None), ((Documents(),), None)]
)
def test_rows_of_test_data_are_known_where_it_has_an_entry_for_each(test: object, rows: int | None) -> None:
    assert rows_in(test) == rows

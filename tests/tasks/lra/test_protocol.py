"""Tests of tasks/lra/protocol.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from hedgebench.adapters.base import Adapter, Capability, ModelShape, UnsupportedError
from hedgebench.results.record import DataIdentity
from hedgebench.tasks.base import INPUT, Sources, Task
from hedgebench.tasks.lra.listops import LISTOPS
from hedgebench.tasks.lra.protocol import SequenceClassification, SequenceSettings
from hedgebench.tasks.lra.sequences import Sequences


@dataclass(frozen=True)
class CountingSettings(SequenceSettings):
    rows: int = 20
    batch_size: int = 3


class Counting:
    """Rows of as many ones as their label says, two more than that."""

    def identify(self, chosen: CountingSettings, sources: Sources) -> DataIdentity:
        return DataIdentity("counting", "1", str(chosen.rows), "generated", {"test": chosen.rows})

    def split(self, name: str, chosen: CountingSettings, sources: Sources) -> Sequences:
        labels = np.arange(chosen.rows, dtype=np.int32) % 3
        tokens = (np.arange(6) < labels[:, None] + 2).astype(np.uint8)
        return Sequences(tokens, labels, labels + 2)


TASK = SequenceClassification(
    LISTOPS.info,
    CountingSettings,
    lambda chosen: ModelShape(context_length=6, vocab_size=2, num_classes=4),
    Counting(),
)


class Counter:
    """Gives the class that the number of real ones says, and more of it where `shift` says."""

    device = torch.device("cpu")
    capabilities = frozenset({Capability.CLASSIFIER})

    def __init__(self, logit: Callable[[int], float] = lambda label: 1.0) -> None:
        self.logit = logit
        self.widths: list[int] = []

    def class_logits(self, inputs: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        self.widths.append(inputs.shape[1])
        real = inputs if attention_mask is None else inputs * attention_mask
        labels = (real.sum(1) - 2).tolist()
        return torch.stack([torch.eye(4)[label] * self.logit(label) for label in labels])


def predict(model: Any, sources: Sources, limit: int | None = None, **settings: int) -> list[dict[str, Any]]:
    return TASK.predict(cast(Adapter, model), TASK.load(settings, sources, limit), settings)


def test_it_is_a_task() -> None:
    assert isinstance(TASK, Task)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_rows_come_in_their_order_whatever_the_batch_size(batch_size: int, sources: Sources) -> None:
    rows = predict(Counter(), sources, batch_size=batch_size)
    assert [row["row"] for row in rows] == list(range(20))
    assert [row["prediction"] for row in rows] == [row["label"] for row in rows] == [i % 3 for i in range(20)]
    assert rows[1][INPUT] == [1, 1, 1, 0, 0, 0]
    assert rows[1]["logits"] == [0, 1, 0, 0]


def test_the_longest_rows_come_first_and_padding_is_cut(sources: Sources) -> None:
    model = Counter()
    predict(model, sources, batch_size=7)
    assert model.widths == [4, 3, 2]


def test_accuracy_stands_beside_that_of_the_commonest_class(sources: Sources) -> None:
    wrong_on_ones = Counter(lambda label: -1.0 if label == 1 else 1.0)
    metrics = {metric.name: metric for metric in TASK.score(predict(wrong_on_ones, sources), {})}
    assert metrics["accuracy"].value == pytest.approx(13 / 20)
    assert metrics["accuracy"].stderr == pytest.approx((0.65 * 0.35 / 19) ** 0.5)
    assert metrics["accuracy"].n == metrics["majority_accuracy"].n == 20
    assert metrics["majority_accuracy"].value == 7 / 20
    assert metrics["majority_accuracy"].higher_is_better is None


def test_limit_keeps_the_first_test_rows_and_all_training_rows(sources: Sources) -> None:
    data = TASK.load({}, sources, limit=4)
    assert len(data.test) == 4
    assert data.train is not None
    assert len(data.train) == 20
    assert [row["row"] for row in predict(Counter(), sources, limit=4)] == [0, 1, 2, 3]


def test_a_logit_that_is_not_finite_is_an_error(sources: Sources) -> None:
    with pytest.raises(FloatingPointError, match="gives 6 of 20 rows a logit that is not finite"):
        predict(Counter(lambda label: float("nan") if label == 2 else 1.0), sources)


def test_a_model_that_cannot_classify_is_refused(sources: Sources) -> None:
    class Decoder(Counter):
        def class_logits(self, inputs: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            raise UnsupportedError("this model cannot do classifier")

    with pytest.raises(UnsupportedError, match="cannot do classifier"):
        predict(Decoder(), sources)


def test_an_unknown_setting_is_answered_with_the_known_ones(sources: Sources) -> None:
    message = r"unknown setting of this task 'row'; did you mean rows\? \(allowed: batch_size, more_metrics, rows\)"
    with pytest.raises(ValueError, match=message):
        TASK.identify({"row": 1}, sources)

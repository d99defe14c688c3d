"""Tests of tasks/data/batches.py."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from hedgebench.adapters.base import Adapter
from hedgebench.tasks.data.batches import batched_logits, pad_left, pad_rows

ROWS = [np.arange(1, 1 + length, dtype=np.int32) for length in (3, 9, 1, 9, 4, 2, 7)]


class SumModel:
    """Its logits are the sum of the real tokens and how many of them there are; it keeps what it was shown."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.shown: list[tuple[int, ...]] = []

    def class_logits(self, inputs: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        self.shown.append(tuple(inputs.shape))
        mask = torch.ones_like(inputs, dtype=torch.bool) if attention_mask is None else attention_mask
        return torch.stack([(inputs * mask).sum(1), mask.sum(1)], dim=1).float()


def logits_of(adapter: Adapter, batch_size: int) -> NDArray[np.float32]:
    lengths = [len(row) for row in ROWS]
    return batched_logits(adapter, lengths, batch_size, lambda chosen: pad_rows([ROWS[i] for i in chosen]))


def test_padding_stands_on_the_left() -> None:
    ids, mask = pad_left([np.array([1, 2, 3], np.int32), np.array([4], np.int32)])
    assert ids.tolist() == [[1, 2, 3], [0, 0, 4]]
    assert mask.tolist() == [[True, True, True], [False, False, True]]


def test_padding_is_on_the_right_and_masked() -> None:
    ids, mask = pad_rows([np.array([5, 6], np.int32), np.array([7], np.int32)])
    assert ids.tolist() == [[5, 6], [7, 0]]
    assert mask.tolist() == [[True, True], [True, False]]
    assert ids.dtype == np.int32
    assert mask.dtype == np.bool_


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_logits_come_in_the_order_of_the_rows_whatever_the_batch_size(batch_size: int) -> None:
    model = SumModel()
    logits = logits_of(cast(Adapter, model), batch_size)
    assert logits.tolist() == [[float(row.sum()), float(len(row))] for row in ROWS]
    assert len(model.shown) == math.ceil(len(ROWS) / batch_size)


def test_batches_are_no_wider_than_their_longest_row_and_the_longest_come_first() -> None:
    model = SumModel()
    logits_of(cast(Adapter, model), 2)
    assert model.shown == [(2, 9), (2, 7), (2, 3), (1, 1)]


def test_a_model_that_breaks_down_is_not_scored() -> None:
    class Broken(SumModel):
        def class_logits(self, inputs: Tensor, attention_mask: Any = None) -> Tensor:
            logits = super().class_logits(inputs, attention_mask)
            return torch.where(logits[:, 1:] > 8, torch.nan, logits)

    with pytest.raises(FloatingPointError, match="2 of 7 rows"):
        logits_of(cast(Adapter, Broken()), 3)

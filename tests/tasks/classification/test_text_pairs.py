"""Tests of tasks/text_pairs.py."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from hedgebench.adapters.base import Adapter
from hedgebench.tasks.classification.text_pairs import class_logits, encode_texts, longest_first, pad_rows
from hedgebench.tasks.data.backbone_tokenizer import load_backbone_tokenizer
from hedgebench.tasks.data.tokenization import ByteTokenizer

END = 256
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


def test_pairs_stand_around_an_end_of_text_and_single_texts_alone() -> None:
    encoded = encode_texts([("ab", "c"), ("ab",), ("", "c"), ("",)], ByteTokenizer(), 16)
    assert [row.tolist() for row in encoded] == [[97, 98, END, 99], [97, 98], [END, 99], [END]]


def test_a_backbone_s_template_is_used(bert_file: Path) -> None:
    tokenizer = load_backbone_tokenizer("bert", bert_file)
    (row,) = encode_texts([("a", "b")], tokenizer, 8)
    assert row.tolist() == tokenizer.inner.encode("a", "b").ids


def test_no_row_is_longer_than_allowed_and_short_ones_are_whole() -> None:
    texts = [("a" * i, "b" * j) for i in range(12) for j in range(12)]
    encoded = encode_texts(texts, ByteTokenizer(), 10)
    assert [len(row) for row in encoded] == [min(10, len(a) + 1 + len(b)) for a, b in texts]


def cut_one_by_one(lengths: list[int], room: int) -> tuple[int, ...]:
    """Takes a token off the longer text, and where both are left alike off the one that was not longer at first."""
    kept = list(lengths)
    behind = 1 if len(kept) == 2 and kept[0] > kept[1] else 0
    while sum(kept) > room:
        kept[behind if len(set(kept)) == 1 else kept.index(max(kept))] -= 1
    return tuple(kept)


@pytest.mark.parametrize("room", [7, 8])
def test_longest_first_equals_cutting_token_by_token(room: int) -> None:
    for first in range(14):
        assert longest_first([first], room) == cut_one_by_one([first], room)
        for second in range(14):
            assert longest_first([first, second], room) == cut_one_by_one([first, second], room)


def test_both_kinds_of_tokenizer_cut_alike(bert_file: Path) -> None:
    tokenizer = load_backbone_tokenizer("bert", bert_file)
    for first in range(1, 12):
        for second in range(1, 12):
            ids = tokenizer.encode_framed([(" ".join("a" * first), " ".join("b" * second))], 10)[0].tolist()
            assert (ids.count(2), ids.count(3)) == longest_first([first, second], 7)


def test_padding_is_on_the_right_and_masked() -> None:
    ids, mask = pad_rows([np.array([5, 6], np.int32), np.array([7], np.int32)])
    assert ids.tolist() == [[5, 6], [7, 0]]
    assert mask.tolist() == [[True, True], [True, False]]
    assert ids.dtype == np.int32
    assert mask.dtype == np.bool_


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_logits_come_in_the_order_of_the_rows_whatever_the_batch_size(batch_size: int) -> None:
    model = SumModel()
    logits = class_logits(cast(Adapter, model), ROWS, batch_size)
    assert logits.tolist() == [[float(row.sum()), float(len(row))] for row in ROWS]
    assert len(model.shown) == math.ceil(len(ROWS) / batch_size)


def test_batches_are_no_wider_than_their_longest_row_and_the_longest_come_first() -> None:
    model = SumModel()
    class_logits(cast(Adapter, model), ROWS, 2)
    assert model.shown == [(2, 9), (2, 7), (2, 3), (1, 1)]


def test_a_model_that_breaks_down_is_not_scored() -> None:
    class Broken(SumModel):
        def class_logits(self, inputs: Tensor, attention_mask: Any = None) -> Tensor:
            logits = super().class_logits(inputs, attention_mask)
            return torch.where(logits[:, 1:] > 8, torch.nan, logits)

    with pytest.raises(FloatingPointError, match="2 of 7 rows"):
        class_logits(cast(Adapter, Broken()), ROWS, 3)

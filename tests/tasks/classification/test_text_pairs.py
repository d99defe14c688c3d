"""Tests of tasks/classification/text_pairs.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from hedgebench.tasks.classification.text_pairs import encode_texts, longest_first
from hedgebench.tasks.data.pretrained_tokenizer import PretrainedTokenizer
from hedgebench.tasks.data.tokenization import ByteTokenizer

END = 256


def test_pairs_stand_around_an_end_of_text_and_single_texts_alone() -> None:
    encoded = encode_texts([("ab", "c"), ("ab",), ("", "c"), ("",)], ByteTokenizer(), 16)
    assert [row.tolist() for row in encoded] == [[97, 98, END, 99], [97, 98], [END, 99], [END]]


def test_a_backbone_s_template_is_used(bert_folder: Path) -> None:
    tokenizer = PretrainedTokenizer.load("bert", bert_folder)
    (row,) = encode_texts([("a", "b")], tokenizer, 8)
    assert row.tolist() == tokenizer.inner.encode("a", "b")


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


def test_both_kinds_of_tokenizer_cut_alike(bert_folder: Path) -> None:
    tokenizer = PretrainedTokenizer.load("bert", bert_folder)
    for first in range(1, 12):
        for second in range(1, 12):
            ids = tokenizer.encode_framed([(" ".join("a" * first), " ".join("b" * second))], 10)[0].tolist()
            assert (ids.count(2), ids.count(3)) == longest_first([first, second], 7)

"""Tests of tasks/data/documents.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hedgebench.tasks.data.documents import Document, cached_tokens, take_bytes, to_examples, tokenize_documents
from hedgebench.tasks.data.tokenization import ByteTokenizer

END = 9
DOCUMENTS = [np.array([1, 2, 3], np.int32), np.array([4], np.int32), np.array([5, 6], np.int32)]


def test_examples_are_one_stream_with_an_end_of_text_before_each_document() -> None:
    examples = to_examples(DOCUMENTS, context_length=4, end_of_text=END)
    assert examples is not None
    assert examples.inputs.tolist() == [[9, 1, 2, 3], [9, 4, 9, 5]]
    assert examples.targets.tolist() == [[1, 2, 3, 9], [4, 9, 5, 6]]


def test_what_does_not_fill_a_row_is_dropped() -> None:
    examples = to_examples(DOCUMENTS, context_length=5, end_of_text=END)
    assert examples is not None
    assert examples.inputs.tolist() == [[9, 1, 2, 3, 9]]


def test_no_documents_give_no_examples() -> None:
    assert to_examples([], context_length=4, end_of_text=END) is None


def test_too_little_text_is_refused() -> None:
    with pytest.raises(ValueError, match="9 tokens do not fill one row"):
        to_examples(DOCUMENTS, context_length=9, end_of_text=END)


def test_counts_are_of_words_and_utf8_bytes() -> None:
    (document,) = tokenize_documents([Document("name", " Ünï  two\nthree ")], ByteTokenizer())
    assert (document.words, document.bytes, len(document.tokens)) == (3, 18, 18)


def test_a_cap_takes_whole_documents_and_at_least_one() -> None:
    documents = [Document(str(i), "x" * 10) for i in range(5)]
    assert [len(take_bytes(documents, cap)) for cap in (1, 10, 19, 20, 1000)] == [1, 1, 1, 2, 5]


@pytest.mark.parametrize("vocab_size", [200, 257, 70_000])
def test_cached_tokens_come_back_as_they_were(vocab_size: int, tmp_path: Path) -> None:
    documents = [np.array([0, vocab_size - 1], np.int32), np.array([], np.int32), np.array([7], np.int32)]
    file = tmp_path / "folder" / "train.npz"
    assert cached_tokens(file, vocab_size, lambda: documents) == documents
    again = cached_tokens(file, vocab_size, lambda: pytest.fail("encoded again"))
    assert [tokens.tolist() for tokens in again] == [tokens.tolist() for tokens in documents]
    assert all(tokens.dtype == np.int32 for tokens in again)
    assert list(file.parent.iterdir()) == [file]


def test_no_documents_can_be_cached(tmp_path: Path) -> None:
    assert cached_tokens(tmp_path / "x.npz", 9, list) == []
    assert cached_tokens(tmp_path / "x.npz", 9, list) == []

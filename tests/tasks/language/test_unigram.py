"""Tests of tasks/unigram.py."""

from __future__ import annotations

import numpy as np
import pytest

from hedgebench.tasks.data.documents import TokenizedDocument
from hedgebench.tasks.language.unigram import unigram_log_probabilities, unigram_perplexity, with_unigram

TRAIN = np.array([0, 0, 0, 1], np.int32)


def test_frequencies_are_smoothed_by_one() -> None:
    assert np.exp(unigram_log_probabilities(TRAIN, 4)) == pytest.approx([4 / 8, 2 / 8, 1 / 8, 1 / 8])


def test_uniform_training_tokens_give_the_size_of_the_vocabulary() -> None:
    train = np.arange(50, dtype=np.int32)
    assert unigram_perplexity(train, [np.array([3, 4]), np.array([49])], 50) == pytest.approx(50)


def test_documents_carry_their_unigram_likelihood() -> None:
    document = TokenizedDocument("name", np.array([0, 2], np.int32), words=1, bytes=2)
    (scored,) = with_unigram([document], [TRAIN], 4)
    assert scored.unigram_nll_nats == pytest.approx(np.log(2) + np.log(8))
    assert with_unigram([document], [], 4) == (document,)

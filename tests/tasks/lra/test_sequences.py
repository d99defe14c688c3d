"""Tests of tasks/lra/sequences.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from hedgebench.tasks.base import Sources
from hedgebench.tasks.lra.sequences import SequenceCache, Sequences

PADDED = Sequences(
    np.array([[1, 2, 3, 0], [4, 0, 0, 0], [5, 6, 0, 0]], np.uint8), np.array([0, 1, 0], np.int32), np.array([3, 1, 2])
)
PAIRS = Sequences(
    np.arange(16, dtype=np.uint16).reshape(2, 2, 4), np.array([1, 0], np.int32), np.array([[1, 3], [2, 2]], np.int32)
)


def cache(sources: Sources, made: Mapping[str, Sequences], key: str = "key") -> SequenceCache:
    return SequenceCache.keyed("kind", key, sources, lambda: made)


def test_a_batch_is_cut_to_its_longest_row() -> None:
    tokens, mask = PADDED.batch(np.array([1, 2]))
    assert tokens.tolist() == [[4, 0], [5, 6]]
    assert mask is not None
    assert mask.tolist() == [[True, False], [True, True]]


def test_a_batch_of_pairs_is_cut_to_the_longest_sequence_of_both() -> None:
    tokens, mask = PAIRS.batch(np.array([1]))
    assert tokens.tolist() == [[[8, 9], [12, 13]]]
    assert mask is not None
    assert mask.all()
    assert PAIRS.row_lengths().tolist() == [3, 2]


def test_rows_without_padding_have_no_mask() -> None:
    whole = replace(PADDED, lengths=None)
    tokens, mask = whole.batch(np.array([0]))
    assert (tokens.shape, mask) == ((1, 4), None)
    assert whole.row_lengths().tolist() == [4, 4, 4]
    assert whole.examples().attention_mask is None


def test_examples_mark_real_tokens() -> None:
    padded, pairs = PADDED.examples(), PAIRS.examples()
    assert padded.attention_mask is not None
    assert pairs.attention_mask is not None
    assert padded.attention_mask.sum(1).tolist() == [3, 1, 2]
    assert pairs.attention_mask.sum(2).tolist() == [[1, 3], [2, 2]]


def test_the_first_rows_keep_labels_and_lengths() -> None:
    first = PADDED.first(2)
    assert first.lengths is not None
    assert (len(first), first.labels.tolist(), first.lengths.tolist()) == (2, [0, 1], [3, 1])
    assert len(PADDED.first(None)) == 3


def test_splits_come_back_as_they_were_made_and_are_made_once(sources: Sources) -> None:
    cache(sources, {"train": PADDED, "test": PAIRS}).split("test")
    again = SequenceCache.keyed("kind", "key", sources, lambda: pytest.fail("made again"))
    for name, made in (("train", PADDED), ("test", PAIRS)):
        read = again.split(name)
        assert read.tokens.dtype == made.tokens.dtype
        assert read.lengths is not None
        assert made.lengths is not None
        assert read.tokens.tolist() == made.tokens.tolist()
        assert read.labels.tolist() == made.labels.tolist()
        assert read.lengths.tolist() == made.lengths.tolist()
    assert again.contents["rows"] == {"train": 3, "test": 2}


def test_the_fingerprint_is_that_of_the_content(sources: Sources) -> None:
    def fingerprint(made: Sequences, key: str) -> str:
        return str(cache(sources, {"test": made}, key).contents["fingerprint"])

    changed = replace(PADDED, labels=PADDED.labels[::-1].copy() + 1)
    shaped = replace(PADDED, lengths=None)
    assert fingerprint(PADDED, "a") == fingerprint(PADDED, "b")
    assert len({fingerprint(PADDED, "c"), fingerprint(changed, "d"), fingerprint(shaped, "e")}) == 3


def test_splits_that_were_written_in_part_are_made_again(sources: Sources) -> None:
    whole = cache(sources, {"test": PADDED})
    whole.split("test")
    (whole.folder / "contents.json").unlink()
    (whole.folder / "test.npz").write_bytes(b"cut short")
    again = cache(sources, {"test": PADDED}).split("test")
    assert again.tokens.tolist() == PADDED.tokens.tolist()

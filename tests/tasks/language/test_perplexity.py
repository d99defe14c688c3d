"""Tests of tasks/language/perplexity.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgebench.adapters.base import Settings
from hedgebench.results.record import DataIdentity
from hedgebench.tasks.base import BackboneTokenizer, Sources, Task
from hedgebench.tasks.data.documents import Document, TokenizedDocument
from hedgebench.tasks.language.perplexity import Perplexity, PerplexitySettings, with_unigram
from hedgebench.tasks.language.stdlib import STDLIB
from hedgebench.tasks.settings import as_settings

END = 256
TEXTS = {
    "train": ["the cat sat on the mat. " * 20, "a dog " * 30],
    "validation": ["the cat ran. " * 10],
    "test": ["the cat sat", "on a mat, ünder a dog", "   ", "and left"],
}
BYTES = PerplexitySettings(context_length=16, tokenizer="byte")


@dataclass(frozen=True)
class Shelf:
    texts: dict[str, list[str]]

    def identify(self, splits: Sequence[str], sources: Sources) -> DataIdentity:
        return DataIdentity(
            "shelf", "1", "fingerprint", "generated", {split: len(self.texts[split]) for split in splits}
        )

    def documents(self, split: str, sources: Sources) -> list[Document]:
        return [Document(f"{split} {i}", text) for i, text in enumerate(self.texts[split])]


SHELF = Perplexity(info=replace(STDLIB.info, name="shelf"), corpus=Shelf(TEXTS))


def measure(task: Perplexity, adapter: Any, settings: PerplexitySettings, sources: Sources) -> dict[str, Any]:
    chosen = as_settings(settings)
    rows = task.predict(adapter, task.load(chosen, sources), chosen)
    return {metric.name: metric for metric in task.score(rows, chosen)}


def bigram(context: list[int]) -> np.ndarray[Any, Any]:
    """A model with a memory of one token."""
    scores = np.zeros(257)
    scores[(context[-1] * 7) % 257] = 2.0
    return np.asarray(scores - np.log(np.exp(scores).sum()))


def test_it_is_a_task() -> None:
    assert isinstance(SHELF, Task)


@pytest.mark.parametrize("joined", [True, False])
def test_a_uniform_models_perplexity_is_the_size_of_the_vocabulary(
    joined: bool, sources: Sources, window_model: Callable[..., Any]
) -> None:
    _, adapter = window_model(257, 16)
    metrics = measure(SHELF, adapter, replace(BYTES, join_documents=joined), sources)
    assert metrics["perplexity"].value == pytest.approx(257, rel=1e-12)
    assert metrics["perplexity"].stderr == pytest.approx(0, abs=1e-9)
    assert metrics["perplexity"].n == 3


def test_a_uniform_model_over_bytes_needs_its_logarithm_in_bits(
    sources: Sources, window_model: Callable[..., Any]
) -> None:
    _, adapter = window_model(257, 16)
    metrics = measure(SHELF, adapter, BYTES, sources)
    num_bytes = sum(len(text.encode()) for text in TEXTS["test"] if text.strip())
    assert metrics["bits_per_byte"].value == pytest.approx(math.log2(257))
    assert metrics["tokens"].value == num_bytes
    assert metrics["word_perplexity"].value == pytest.approx(257 ** (num_bytes / 11))


def test_every_token_is_scored_once_in_one_stream(sources: Sources, window_model: Callable[..., Any]) -> None:
    model, adapter = window_model(257, 16)
    measure(SHELF, adapter, BYTES, sources)
    first, second, _, last = (list(text.encode()) for text in TEXTS["test"])
    assert model.scored == [[*first, END, *second, END, *last]]


def test_documents_can_be_scored_apart(sources: Sources, window_model: Callable[..., Any]) -> None:
    model, adapter = window_model(257, 16)
    measure(SHELF, adapter, replace(BYTES, join_documents=False), sources)
    assert model.scored == [list(text.encode()) for text in TEXTS["test"] if text.strip()]


def test_each_document_gets_the_likelihood_of_its_own_tokens(
    sources: Sources, window_model: Callable[..., Any]
) -> None:
    _, adapter = window_model(257, 16, bigram)
    rows = SHELF.predict(adapter, SHELF.load(as_settings(BYTES), sources), as_settings(BYTES))
    for row, text in zip(rows, [text for text in TEXTS["test"] if text.strip()], strict=True):
        stream = [END, *text.encode()]
        expected = -sum(bigram(stream[: i + 1])[token] for i, token in enumerate(stream[1:]))
        assert row["nll_nats"] == pytest.approx(expected)
        assert (row["tokens"], row["bytes"], row["words"]) == (
            len(text.encode()),
            len(text.encode()),
            len(text.split()),
        )


def test_strides_agree_for_a_model_with_a_memory_of_one_token(
    sources: Sources, window_model: Callable[..., Any]
) -> None:
    whole, whole_adapter = window_model(257, 1000, bigram)
    strided, strided_adapter = window_model(257, 16, bigram)
    expected = measure(SHELF, whole_adapter, BYTES, sources)["perplexity"]
    actual = measure(SHELF, strided_adapter, replace(BYTES, stride=8), sources)["perplexity"]
    assert actual.value == pytest.approx(expected.value)
    assert (whole.strides, strided.strides) == ([None], [8])


def test_the_unigram_floor_describes_and_does_not_rank(sources: Sources, window_model: Callable[..., Any]) -> None:
    _, adapter = window_model(257, 16)
    floor = measure(SHELF, adapter, BYTES, sources)["unigram_perplexity"]
    assert floor.higher_is_better is None
    assert 1 < floor.value < 257


def test_training_rows_are_next_token_pairs(sources: Sources) -> None:
    data = SHELF.load(as_settings(BYTES), sources)
    assert data.train is not None
    assert data.validation is not None
    assert data.shape.context_length == 16
    assert data.shape.vocab_size == 257
    assert (data.train.inputs[:, 1:] == data.train.targets[:, :-1]).all()
    assert data.train.inputs[0, 0] == END


def test_limit_keeps_the_first_documents(sources: Sources) -> None:
    data = SHELF.load(as_settings(BYTES), sources, limit=2)
    assert [document.name for document in data.test.documents] == ["test 0", "test 1"]


def test_without_training_bytes_only_the_test_split_is_read(sources: Sources, window_model: Callable[..., Any]) -> None:
    untrained = Perplexity(info=SHELF.info, corpus=Shelf({"test": TEXTS["test"]}))
    settings = replace(BYTES, train_bytes=0)
    data = untrained.load(as_settings(settings), sources)
    assert data.train is None
    assert data.validation is None
    _, adapter = window_model(257, 16)
    assert "unigram_perplexity" not in measure(untrained, adapter, settings, sources)


def test_bpe_without_training_text_is_refused(sources: Sources) -> None:
    with pytest.raises(ValueError, match="bpe:300 needs training text"):
        SHELF.identify(as_settings(replace(BYTES, train_bytes=0, tokenizer="bpe:300")), sources)


def test_the_identity_names_the_tokenizer_that_is_used(sources: Sources) -> None:
    settings: Settings = as_settings(replace(BYTES, tokenizer="auto"))
    identity, data = SHELF.identify(settings, sources), SHELF.load(settings, sources)
    assert identity.details["tokenizer"] == "bpe:16384"
    assert data.notes == (identity.details["tokenizer_fallback"],)


def test_a_second_load_reads_the_same_tokens_from_the_cache(sources: Sources) -> None:
    settings = as_settings(replace(BYTES, tokenizer="bpe:300"))
    first = SHELF.load(settings, sources)
    unread = Perplexity(info=SHELF.info, corpus=Shelf({**TEXTS, "train": [], "validation": []}))
    again = unread.load(settings, sources)
    assert first.train is not None
    assert again.train is not None
    assert (first.train.inputs == again.train.inputs).all()


@pytest.mark.parametrize("train_bytes", [None, 0])
def test_the_tokenizer_of_a_backbone_needs_no_training_text(
    train_bytes: int | None, sources: Sources, bert_folder: Path
) -> None:
    own = replace(sources, tokenizer=BackboneTokenizer("tiny-bert", "abc", bert_folder))
    settings = as_settings(replace(BYTES, tokenizer="backbone", train_bytes=train_bytes))
    assert SHELF.identify(settings, own).details["tokenizer_fingerprint"] == "abc"
    data = SHELF.load(settings, own)
    assert data.test.documents[1].tokens[0] == 1
    assert data.shape.vocab_size == 17
    assert (data.train is None) == (train_bytes == 0)


def test_a_broken_models_infinite_loss_is_a_number_and_no_crash() -> None:
    row = {"nll_nats": 1e6, "tokens": 2, "words": 1, "bytes": 5, "unigram_nll_nats": None}
    metrics = {metric.name: metric for metric in SHELF.score([row, row], {})}
    assert metrics["perplexity"].value == math.inf
    assert metrics["perplexity"].stderr is None


@pytest.mark.parametrize("stride", [0, 17])
def test_a_stride_outside_the_context_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match=f"stride is {stride}"):
        replace(BYTES, stride=stride)


def test_the_frequencies_of_unigrams_are_smoothed_by_one() -> None:
    documents = [TokenizedDocument(str(i), np.array([i], np.int32), words=1, bytes=1) for i in range(4)]
    scored = with_unigram(documents, [np.array([0, 0, 0, 1], np.int32)], 4)
    nlls = [document.unigram_nll_nats for document in scored]
    assert nlls == pytest.approx([-math.log(count / 8) for count in (4, 2, 1, 1)])


def test_uniform_training_tokens_give_the_size_of_the_vocabulary() -> None:
    document = TokenizedDocument("name", np.array([3, 4, 49], np.int32), words=1, bytes=3)
    (scored,) = with_unigram([document], [np.arange(50, dtype=np.int32)], 50)
    assert scored.unigram_nll_nats == pytest.approx(3 * math.log(50))


def test_documents_carry_their_unigram_likelihood() -> None:
    document = TokenizedDocument("name", np.array([0, 2], np.int32), words=1, bytes=2)
    (scored,) = with_unigram([document], [np.array([0, 0, 0, 1], np.int32)], 4)
    assert scored.unigram_nll_nats == pytest.approx(np.log(2) + np.log(8))
    assert with_unigram([document], [], 4) == (document,)

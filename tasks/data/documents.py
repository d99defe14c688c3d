"""Documents and their tokens: what a corpus holds, and what training and evaluation read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ...adapters.base import Examples
from ...results.atomic import replacing
from ...results.record import DataIdentity
from ..base import Sources
from ..heavy import np
from .batches import TokenIds
from .sources import DatasetId, identify_dataset, read_split
from .tokenization import Tokenizer


@dataclass(frozen=True)
class Document:
    """A named text."""

    name: str
    text: str


class Corpus(Protocol):
    """Documents in the splits `train`, `validation` and `test`."""

    def identify(self, splits: Sequence[str], sources: Sources) -> DataIdentity:
        """Which data would be read.

        Raises:
            DataUnavailableError: The data are not available.
        """
        ...

    def documents(self, split: str, sources: Sources) -> list[Document]:
        """The documents of one split, in a fixed order.

        Raises:
            DataUnavailableError: The data are not available.
        """
        ...


def rows_as_documents(rows: Sequence[str]) -> Iterable[Document]:
    """Each row as a document, named by its place."""
    return (Document(str(place), text) for place, text in enumerate(rows))


@dataclass(frozen=True)
class HubCorpus:
    """The texts of a data set in the layout of the hub.

    Attributes:
        dataset: Where the rows are; it has the splits `train`, `validation` and `test`.
        column: Column that holds the text.
        to_documents: Turns the rows of a split into documents.
    """

    dataset: DatasetId
    column: str = "text"
    to_documents: Callable[[Sequence[str]], Iterable[Document]] = rows_as_documents

    def identify(self, splits: Sequence[str], sources: Sources) -> DataIdentity:
        """The parquet files in the mirror, or the revision on the hub; the identity counts rows, not documents."""
        return identify_dataset(replace(self.dataset, splits=tuple(splits)), sources)

    def documents(self, split: str, sources: Sources) -> list[Document]:
        """The documents of one split."""
        rows = read_split(replace(self.dataset, splits=(split,)), split, sources)
        return list(self.to_documents(rows[self.column]))


@dataclass(frozen=True)
class TokenizedDocument:
    """A test document.

    Attributes:
        name: Its title or file name.
        tokens: Token ids `[tokens]`, without any end of text.
        words: Whitespace-separated words of its text.
        bytes: UTF-8 bytes of its text.
        unigram_nll_nats: Negative log-likelihood under the training split's unigrams; None without one.
    """

    name: str
    tokens: TokenIds
    words: int
    bytes: int
    unigram_nll_nats: float | None = None


@dataclass(frozen=True)
class EvaluationDocuments:
    """The documents that a model is evaluated on, and the token that separates them."""

    documents: tuple[TokenizedDocument, ...]
    end_of_text: int


def take_bytes(documents: Sequence[Document], cap: int) -> list[Document]:
    """The first documents whose texts together hold at most `cap` bytes, and at least one of them."""
    totals = itertools.accumulate(len(document.text.encode()) for document in documents)
    return list(documents[: max(1, sum(total <= cap for total in totals))])


def tokenize_documents(documents: Sequence[Document], tokenizer: Tokenizer) -> list[TokenizedDocument]:
    """Token ids, and the counts of words and bytes that perplexities are divided by."""
    texts = [document.text for document in documents]
    return [
        TokenizedDocument(document.name, tokens, words=len(document.text.split()), bytes=len(document.text.encode()))
        for document, tokens in zip(documents, tokenizer.encode(texts), strict=True)
    ]


def to_examples(documents: Sequence[TokenIds], context_length: int, end_of_text: int) -> Examples | None:
    """Rows of `context_length` tokens of one stream, and their next tokens; None without documents.

    Each document follows an end-of-text token. What does not fill a row is dropped.

    Raises:
        ValueError: The documents do not fill one row.
    """
    if not documents:
        return None
    stream = np.concatenate([part for tokens in documents for part in (np.array([end_of_text], np.int32), tokens)])
    rows = (len(stream) - 1) // context_length
    if rows == 0:
        raise ValueError(f"{len(stream)} tokens do not fill one row; set context_length to less than {len(stream)}")
    used = rows * context_length
    return Examples(stream[:used].reshape(rows, -1), stream[1 : used + 1].reshape(rows, -1))


def cached_tokens(file: Path, vocab_size: int, encode: Callable[[], list[TokenIds]]) -> list[TokenIds]:
    """Token ids of each document, read from `file`; if it does not exist, `encode()` makes them and `file` keeps them.

    Each cell of a run is a process of its own, and would tokenize the training split again.
    """
    if not file.is_file():
        documents = encode()
        stream = np.concatenate(documents) if documents else np.empty(0, np.int32)
        ends = np.cumsum([len(tokens) for tokens in documents], dtype=np.int64)
        with replacing(file) as handle:
            np.savez(handle, stream=stream.astype(np.min_scalar_type(vocab_size)), ends=ends)
        return documents
    with np.load(file) as arrays:
        stream, ends = arrays["stream"].astype(np.int32), arrays["ends"]
    return np.split(stream, ends[:-1]) if len(ends) else []

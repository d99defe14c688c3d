"""Text that attention fidelity is measured on: windows of a stream of tokens, as decoders read it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from ...adapters.base import Settings
from ...results.record import DataIdentity
from ..base import Sources, TaskData
from ..data.documents import Corpus, take_bytes
from ..data.tokenization import load_tokenizer
from ..language.perplexity import Perplexity, PerplexitySettings
from ..settings import as_settings, parse_settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHORTEST = 16
_OTHER_BYTES = 400_000


@dataclass(frozen=True)
class Window:
    """Rows of text that are measured together; the unit of standard errors.

    Attributes:
        tokens: Token ids `[rows, n]`.
        mask: True at real tokens, `[rows, n]`; None where no row is padded.
    """

    tokens: NDArray[np.int32]
    mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Place:
    """Text of one corpus and length.

    Attributes:
        corpus: Name of the corpus.
        seq_len: The most tokens that a row may have.
        windows: The text.
        reason: Why there is none; empty where there is.
    """

    corpus: str
    seq_len: int
    windows: tuple[Window, ...]
    reason: str = ""


@dataclass(frozen=True)
class Texts:
    """What is measured, and drawn.

    Attributes:
        places: Corpora and lengths, the one that models are trained on first.
        sample: Tokens of the first corpus whose weights are kept for plots, `[n]`; may be empty.
    """

    places: tuple[Place, ...]
    sample: NDArray[np.int32]


class FidelityTexts(Protocol):
    """Where the text comes from, and what models are trained and distilled on."""

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """Which data `load` would read.

        Raises:
            DataUnavailableError: The data cannot be had.
        """
        ...

    def load(self, settings: Settings, sources: Sources, limit: int | None) -> TaskData:
        """The data, `test` as `Texts`; `limit` keeps that many windows of each corpus and length.

        Raises:
            DataUnavailableError: The data cannot be had.
        """
        ...


@dataclass(frozen=True)
class FidelitySettings:
    """What is compared, and on how much text.

    Attributes:
        context_length: Tokens of a row in training and distillation.
        lengths: Tokens of the rows that are compared: `context_length`, whose metrics are the main ones, then others.
        windows: Rows of each length and corpus.
        tokenizer: As in the perplexity tasks.
        train_bytes: Training text, from the start of the split; 0 for none.
        sample_tokens: Tokens whose weights are kept for plots; 0 for none.

    Raises:
        ValueError: As of `check_extent`.
    """

    context_length: int = 256
    lengths: tuple[int, ...] = (256, 512, 1024)
    windows: int = 4
    tokenizer: str = "auto"
    train_bytes: int | None = None
    sample_tokens: int = 16

    def __post_init__(self) -> None:
        check_extent(self.lengths, "context_length", self.context_length, self.windows, self.sample_tokens)

    def of_text(self) -> Settings:
        """The settings of the perplexity task that reads the same text."""
        return as_settings(
            PerplexitySettings(
                context_length=self.context_length, tokenizer=self.tokenizer, train_bytes=self.train_bytes
            )
        )


@dataclass(frozen=True)
class StreamTexts:
    """Windows of the tokens of test documents, one row each.

    Attributes:
        trained_on: Name and perplexity task of the corpus that models are trained and distilled on.
        others: Further corpora to compare on.
    """

    trained_on: tuple[str, Perplexity]
    others: tuple[tuple[str, Corpus], ...]

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """The corpus trained on, the tokenizer, and hashes of the other corpora."""
        found = self.trained_on[1].identify(parse_settings(FidelitySettings, settings).of_text(), sources)
        others = {name: corpus.identify(("test",), sources).fingerprint for name, corpus in self.others}
        return replace(found, details={**found.details, **others})

    def load(self, settings: Settings, sources: Sources, limit: int | None) -> TaskData:
        """Tokenizes the corpora; a corpus too short for a length has a place without text."""
        import numpy as np

        chosen = parse_settings(FidelitySettings, settings)
        name, task = self.trained_on
        data = task.load(chosen.of_text(), sources)
        streams = {name: np.concatenate([document.tokens for document in data.test.documents])}
        reader = task.reader(chosen.of_text(), sources)
        tokenizer = load_tokenizer(reader.tokenizer, lambda: (text.text for text in reader.documents("train")))
        for other, corpus in self.others:
            documents = take_bytes(corpus.documents("test", sources), _OTHER_BYTES)
            streams[other] = np.concatenate(tokenizer.encode([document.text for document in documents]))
        windows = chosen.windows if limit is None else min(limit, chosen.windows)
        texts = Texts(tuple(_places(streams, chosen.lengths, windows)), streams[name][: chosen.sample_tokens])
        return replace(data, test=texts, wants_teacher=True)


def check_extent(lengths: tuple[int, ...], trained: str, trained_length: int, windows: int, sample_tokens: int) -> None:
    """Sees to it that settings measure something, and first of all what models are trained on.

    Args:
        lengths: Tokens of the rows that are compared.
        trained: Name of the setting of the length trained on.
        trained_length: Its value.
        windows: Windows of each length and corpus.
        sample_tokens: Tokens kept for plots.

    Raises:
        ValueError: A length below 16 tokens or given twice, another than the one trained on first, no window, or more
            tokens to sample than the shortest length.
    """
    if not lengths or min(lengths) < SHORTEST:
        raise ValueError(f"lengths is {lengths}; it takes lengths of {SHORTEST} tokens or more")
    if lengths[0] != trained_length:
        raise ValueError(f"lengths is {lengths}; it starts with {trained}={trained_length}, the length trained on")
    if len(set(lengths)) < len(lengths):
        raise ValueError(f"lengths is {lengths}; it takes each length once")
    if windows < 1:
        raise ValueError(f"windows is {windows}; it takes 1 or more")
    if not 0 <= sample_tokens <= min(lengths):
        raise ValueError(f"sample_tokens is {sample_tokens}; it takes 0 to {min(lengths)}, the shortest of lengths")


def _places(streams: dict[str, NDArray[np.int32]], lengths: tuple[int, ...], windows: int) -> Iterator[Place]:
    for corpus, tokens in streams.items():
        for length in lengths:
            rows = tokens[: len(tokens) // length * length].reshape(-1, length)[:windows]
            reason = f"the test text of {corpus} has {len(tokens)} tokens, fewer than a row of {length}"
            yield Place(corpus, length, tuple(Window(row[None]) for row in rows), "" if len(rows) else reason)

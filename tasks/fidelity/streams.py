"""Text of attention fidelity for decoders: windows of the stream of tokens that the documents of a corpus form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ..base import Sources
from ..data.documents import Corpus, take_bytes
from ..data.tokenization import Tokenizer
from ..heavy import np
from ..language.perplexity import Perplexity
from .protocol import AttentionFidelity, FidelitySettings
from .rows import CorpusWindows, Window

_OTHER_BYTES = 400_000


@dataclass(frozen=True, kw_only=True)
class StreamSettings(FidelitySettings):
    """What is compared, and on how much text; a window is one row.

    Attributes:
        context_length: Tokens of a row in training and distillation.
        train_bytes: Most bytes of the training documents, as in `PerplexitySettings`; None for all, 0 for none.
    """

    of_task: ClassVar = ("context_length", "tokenizer", "train_bytes")
    lengths: tuple[int, ...] = (256, 512, 1024)
    windows: int = 4
    tokenizer: str = "auto"
    context_length: int = 256
    train_bytes: int | None = None


class StreamFidelity(AttentionFidelity):
    """Attention fidelity on the test documents of corpora."""

    settings = StreamSettings
    trained_on: tuple[str, Perplexity]
    others: tuple[tuple[str, Corpus], ...]

    def fingerprint(self, other: Corpus, sources: Sources) -> str:
        """Fingerprint of the test documents of a corpus."""
        return other.identify(("test",), sources).fingerprint

    def corpora(
        self, chosen: StreamSettings, tokenizer: Tokenizer, sources: Sources, windows: int
    ) -> Iterator[CorpusWindows]:
        """Windows of one row each, cut out of the stream of test documents."""
        name, task = self.trained_on
        documents = {name: task.reader(chosen.task_settings(), sources).documents("test")}
        for other, corpus in self.others:
            documents[other] = take_bytes(corpus.documents("test", sources), _OTHER_BYTES)
        for corpus_name, texts in documents.items():
            stream = np.concatenate(tokenizer.encode([document.text for document in texts]))
            for length in chosen.lengths:
                rows = stream[: len(stream) // length * length].reshape(-1, length)[:windows]
                reason = f"the test text of {corpus_name} has {len(stream)} tokens, fewer than a row of {length}"
                yield CorpusWindows(corpus_name, length, tuple(Window(row[None], None) for row in rows), reason)

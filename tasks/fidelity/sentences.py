"""Text of attention fidelity for encoders: single sentences as in training, and rows of many sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ..base import Sources
from ..classification.text_classification import TextClassification
from ..classification.text_pairs import Text, encode_texts
from ..data.batches import pad_rows
from ..data.sources import DatasetId, identify_dataset, read_split, shuffled_places
from ..data.tokenization import Tokenizer
from ..settings import check_ranges
from .measures import MIN_KEYS
from .protocol import AttentionFidelity, FidelitySettings
from .rows import CorpusWindows, Window


@dataclass(frozen=True, kw_only=True)
class SentenceSettings(FidelitySettings):
    """What is compared, and on how much text.

    At the first length, `max_length`, rows are single texts as in training. At each other length a row is several texts
    joined to that length, and a window is one row.

    Attributes:
        max_length: Longest row in training and distillation in tokens, special ones included.
        texts: Single texts in a window, padded to the longest of them.
        train_rows: Training rows, as in `TextSettings`.

    Raises:
        ValueError: `FidelitySettings` refuses them, or a window has no text.
    """

    of_task: ClassVar = ("max_length", "tokenizer", "train_rows")
    lengths: tuple[int, ...] = (128, 256, 512)
    windows: int = 8
    tokenizer: str = "bpe:4096"
    max_length: int = 128
    texts: int = 16
    train_rows: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, {"texts": (1, None)})


class SentenceFidelity(AttentionFidelity):
    """Attention fidelity on the test splits of classification tasks.

    Texts are shuffled with a fixed seed, as some data sets are sorted by origin. Single texts of fewer than 8 tokens
    are left out, because none of their queries could be measured. All tasks use the tokenizer of the first.
    """

    settings = SentenceSettings
    trained_on: tuple[str, TextClassification]
    others: tuple[tuple[str, TextClassification], ...]

    def fingerprint(self, other: TextClassification, sources: Sources) -> str:
        """Fingerprint of the first test split of a task."""
        return identify_dataset(_test_data(other)[0], sources).fingerprint

    def corpora(
        self, chosen: SentenceSettings, tokenizer: Tokenizer, sources: Sources, windows: int
    ) -> Iterator[CorpusWindows]:
        """Windows of single texts at the first length, and of one row of joined texts at the others."""
        for corpus, task in (self.trained_on, *self.others):
            rows = read_split(*_test_data(task), sources)
            texts = task.texts(rows.select(shuffled_places(len(rows))))
            single = [row for row in encode_texts(texts, tokenizer, chosen.max_length) if len(row) >= MIN_KEYS]
            starts = range(0, min(len(single), windows * chosen.texts), chosen.texts)
            groups = tuple(Window(*pad_rows(single[start : start + chosen.texts])) for start in starts)
            reason = f"the test split of {corpus} has no text of {MIN_KEYS} tokens or more"
            yield CorpusWindows(corpus, chosen.max_length, groups, reason)
            for length in chosen.lengths[1:]:
                joined = encode_texts(_joined(texts, tokenizer, length)[:windows], tokenizer, length)
                reason = f"the test split of {corpus} does not fill a row of {length} tokens"
                yield CorpusWindows(corpus, length, tuple(Window(*pad_rows([row])) for row in joined), reason)


def _test_data(task: TextClassification) -> tuple[DatasetId, str]:
    """The first test split of a task's data set."""
    split = next(iter(task.test_splits))
    return replace(task.dataset, splits=(split,)), split


def _joined(texts: Sequence[Text], tokenizer: Tokenizer, length: int) -> list[Text]:
    """Texts joined until they fill `length` tokens, row by row; what remains at the end is left out."""
    sentences = [" ".join(text) for text in texts]
    rows: list[Text] = []
    start = tokens = 0
    for end, ids in enumerate(tokenizer.encode(sentences), start=1):
        tokens += len(ids)
        if tokens >= length:
            rows.append((" ".join(sentences[start:end]),))
            start, tokens = end, 0
    return rows

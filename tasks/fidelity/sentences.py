"""Text that attention fidelity is measured on: sentences, as encoders read them, and rows of many sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...adapters.base import Settings
from ...results.record import DataIdentity
from ..base import Sources, TaskData
from ..classification.text_classification import TextClassification, TextSettings
from ..classification.text_pairs import Text, encode_texts, pad_rows
from ..data.sources import DatasetId, identify_dataset, read_split
from ..data.tokenization import Tokenizer, load_tokenizer
from ..settings import as_settings, parse_settings
from .measures import MIN_KEYS
from .texts import Place, Texts, Window, check_extent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SHUFFLE_SEED = 0


@dataclass(frozen=True)
class SentenceSettings:
    """What is compared, and on how much text.

    Attributes:
        max_length: Longest row in training and distillation in tokens, special ones included.
        lengths: The most tokens of the rows that are compared: `max_length`, at which rows are single texts as in
            training and whose metrics are the main ones; then others, at which rows are texts joined to that length.
        windows: Windows of each length and corpus.
        texts: Single texts in a window, padded to the longest of them; of joined texts a window has one row.
        tokenizer: As in the GLUE tasks.
        train_rows: As in the GLUE tasks.
        sample_tokens: The most tokens whose weights are kept for plots; 0 for none.

    Raises:
        ValueError: As of `check_extent`, or windows without a text.
    """

    max_length: int = 128
    lengths: tuple[int, ...] = (128, 256, 512)
    windows: int = 8
    texts: int = 16
    tokenizer: str = "bpe:4096"
    train_rows: int | None = None
    sample_tokens: int = 16

    def __post_init__(self) -> None:
        check_extent(self.lengths, "max_length", self.max_length, self.windows, self.sample_tokens)
        if self.texts < 1:
            raise ValueError(f"texts is {self.texts}; it takes 1 or more")

    def of_task(self) -> Settings:
        """The settings of the classification task that reads the same text."""
        return as_settings(
            TextSettings(max_length=self.max_length, tokenizer=self.tokenizer, train_rows=self.train_rows)
        )


@dataclass(frozen=True)
class SentenceTexts:
    """Sentences, or pairs of them, of the test splits of classification tasks.

    Texts are shuffled with a fixed seed, as some data sets are sorted by where they come from. Those of fewer than 8
    tokens are left out: none of their rows could be measured.

    Attributes:
        trained_on: Name and task that models are trained and distilled on.
        others: Further tasks, of whose texts the tokenizer is that of the first.
    """

    trained_on: tuple[str, TextClassification]
    others: tuple[tuple[str, TextClassification], ...]

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """The data set trained on, the tokenizer, and hashes of the other test splits."""
        found = self.trained_on[1].identify(parse_settings(SentenceSettings, settings).of_task(), sources)
        others = {name: identify_dataset(_test_data(task)[0], sources).fingerprint for name, task in self.others}
        return replace(found, details={**found.details, **others})

    def load(self, settings: Settings, sources: Sources, limit: int | None) -> TaskData:
        """Tokenizes the texts; a test split too short for a length has a place without text."""
        chosen = parse_settings(SentenceSettings, settings)
        task = self.trained_on[1]
        data = task.load(chosen.of_task(), sources)
        reader = task.reader(chosen.of_task(), sources)
        tokenizer = load_tokenizer(reader.tokenizer, lambda: (part for text in reader.texts("train") for part in text))
        windows = chosen.windows if limit is None else min(limit, chosen.windows)
        places = tuple(
            place
            for corpus, other in (self.trained_on, *self.others)
            for place in _places(corpus, _texts(other, sources), tokenizer, chosen, windows)
        )
        return replace(data, test=Texts(places, _sample(places[0], chosen.sample_tokens)), wants_teacher=True)


def _test_data(task: TextClassification) -> tuple[DatasetId, str]:
    """The first test split of a task's data set."""
    split = next(iter(task.test_splits))
    return replace(task.dataset, splits=(split,)), split


def _texts(task: TextClassification, sources: Sources) -> list[Text]:
    import numpy as np

    rows = read_split(*_test_data(task), sources)
    order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(rows)).tolist()
    return list(zip(*(rows.select(order)[name][:] for name in task.columns), strict=True))


def _places(
    corpus: str, texts: Sequence[Text], tokenizer: Tokenizer, chosen: SentenceSettings, windows: int
) -> Iterator[Place]:
    """The places of one corpus: single texts first."""
    single = [row for row in encode_texts(texts, tokenizer, chosen.max_length) if len(row) >= MIN_KEYS]
    groups = [single[start : start + chosen.texts] for start in range(0, windows * chosen.texts, chosen.texts)]
    reason = f"the test split of {corpus} has no text of {MIN_KEYS} tokens or more"
    yield _place(corpus, chosen.max_length, [pad_rows(group) for group in groups if group], reason)
    for length in chosen.lengths[1:]:
        rows = encode_texts(_joined(texts, tokenizer, length)[:windows], tokenizer, length)
        reason = f"the test split of {corpus} does not fill a row of {length} tokens"
        yield _place(corpus, length, [pad_rows([row]) for row in rows], reason)


def _place(
    corpus: str, seq_len: int, windows: Sequence[tuple[NDArray[np.int32], NDArray[np.bool_]]], reason: str
) -> Place:
    made = tuple(Window(tokens, None if mask.all() else mask) for tokens, mask in windows)
    return Place(corpus, seq_len, made, "" if made else reason)


def _joined(texts: Sequence[Text], tokenizer: Tokenizer, length: int) -> list[Text]:
    """Texts that are as many in a row as it takes for `length` tokens; what remains at the end is left out."""
    sentences = [" ".join(text) for text in texts]
    rows: list[Text] = []
    start = tokens = 0
    for end, ids in enumerate(tokenizer.encode(sentences), start=1):
        tokens += len(ids)
        if tokens >= length:
            rows.append((" ".join(sentences[start:end]),))
            start, tokens = end, 0
    return rows


def _sample(place: Place, most: int) -> NDArray[np.int32]:
    """The start of the longest row of the first window; nothing where there is none."""
    import numpy as np

    if not place.windows:
        return np.empty(0, np.int32)
    window = place.windows[0]
    lengths = window.tokens.shape[1] * np.ones(len(window.tokens)) if window.mask is None else window.mask.sum(1)
    longest = int(lengths.argmax())
    return window.tokens[longest, : min(most, int(lengths[longest]))]

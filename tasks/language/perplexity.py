"""Perplexity of a language model on documents: the protocol that every corpus shares.

Training: each document follows an end-of-text token, all of them form one stream, and the stream is cut into rows of
`context_length` tokens whose targets are the next tokens; what does not fill a row is dropped.

Evaluation, the convention of GPT-2's evaluations: the test documents form one stream with end-of-text tokens between
them, so context crosses documents, and every token is scored exactly once by windows of `context_length` tokens that
advance by `stride`. With `stride` equal to the context length windows do not overlap and a window's first tokens have
next to no context; a shorter stride gives each token at least `context_length - stride` tokens of context (where so
many exist), costs `context_length / stride` times as much and yields a lower perplexity, so numbers compare only at
equal stride. With `join_documents=False` each document is scored alone after one end-of-text token, as lm-eval does.

End-of-text tokens are context only: they are left out of every sum, so that word perplexity and bits per byte come from
the probability of the text itself, given where its documents begin.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ...adapters.base import Adapter, Capability, ModelShape, Settings
from ...results.record import DataIdentity, Metric
from ..base import FROM_SCRATCH, INPUT, Row, Sources, TaskData, TaskInfo, TaskScale
from ..data.batches import TokenIds
from ..data.documents import (
    Corpus,
    Document,
    EvaluationDocuments,
    TokenizedDocument,
    cached_tokens,
    take_bytes,
    to_examples,
    tokenize_documents,
)
from ..data.tokenization import TextIdentity, Tokenizer, identify_text, load_tokenizer
from ..heavy import NDArray, np
from ..settings import as_settings, check_ranges, parse_settings

if TYPE_CHECKING:
    from ...results.stats.statistics import RatioStatistic

    Loglikelihood: TypeAlias = Callable[[list[int]], NDArray[np.float64]]
    """From tokens to the log-likelihood of each."""

RECIPES = (
    *FROM_SCRATCH,
    "pretrained-conversion",
    "pretrained-conversion-lora",
    "finetuned-conversion",
    "zero-shot",
)
"""Recipes of a corpus that is trained on."""


@dataclass(frozen=True)
class PerplexitySettings:
    """How a corpus is read and scored.

    Attributes:
        context_length: Longest input in tokens.
        stride: Tokens by which evaluation windows advance; None for the context length.
        join_documents: Score the test split as one stream, rather than each document alone.
        tokenizer: `auto`, `gpt2`, `bpe:N`, `byte` or `backbone`; see `tokenization.py`.
        train_bytes: Most bytes of the training documents, which are taken whole; None for all. 0 reads the test split
            alone, for a model that is not trained here; its tokenizer must not be `bpe:N`.
        test_bytes: Most bytes of the documents of the validation split, and of the test split; None for all. At least
            one document is read.
        batch_size: Windows per forward pass in evaluation.

    Raises:
        ValueError: A stride outside 1 to `context_length`.
    """

    context_length: int = 1024
    stride: int | None = None
    join_documents: bool = True
    tokenizer: str = "auto"
    train_bytes: int | None = None
    test_bytes: int | None = None
    batch_size: int = 8

    def __post_init__(self) -> None:
        check_ranges(self, {"stride": (1, self.context_length)})

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are read."""
        return ("test",) if self.train_bytes == 0 else ("train", "validation", "test")


SCALES: Mapping[str, TaskScale] = {
    "smoke": TaskScale(
        as_settings(
            PerplexitySettings(context_length=128, tokenizer="bpe:1024", train_bytes=1_000_000, test_bytes=100_000)
        ),
        train={"steps": 60},
    ),
    "small": TaskScale(
        as_settings(PerplexitySettings(context_length=128, tokenizer="bpe:2048")),
        train={"steps": 1_500, "batch_size": 8, "lr": 2e-3, "eval_every": 500, "eval_rows": 128},
        backbone={"layers": 2},
    ),
    "paper": TaskScale(as_settings(PerplexitySettings(context_length=1024))),
}

corpus_info = functools.partial(
    TaskInfo,
    version=1,
    main_metric="perplexity",
    needs=frozenset({Capability.LANGUAGE_MODEL}),
    recipes=RECIPES,
    scales=SCALES,
)
"""Declares a perplexity task: a `TaskInfo` that lacks `name`, `summary`, `data`, `licence` and `citation`."""


@dataclass(frozen=True)
class Perplexity:
    """The perplexity of a model on a corpus; see the module's docstring.

    Attributes:
        info: The declaration.
        corpus: The documents.
    """

    info: TaskInfo
    corpus: Corpus

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """Which documents and which tokenizer `load` would use.

        Raises:
            DataUnavailableError: The documents or the tokenizer are not available.
            ValueError: A setting is wrong.
        """
        return self.reader(settings, sources).text.data

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        """Tokenizes the documents; `test` is an `EvaluationDocuments` with the first `limit` documents.

        Raises:
            DataUnavailableError: The data are not available.
            ValueError: A split has too little text for one row of `context_length` tokens.
        """
        reader = self.reader(settings, sources)
        tokenizer = reader.load_tokenizer()
        train, validation = (reader.tokens(split, tokenizer) for split in ("train", "validation"))
        test = tokenize_documents(reader.documents("test")[:limit], tokenizer)
        context_length = reader.chosen.context_length
        return TaskData(
            shape=ModelShape(context_length=context_length, vocab_size=tokenizer.vocab_size),
            test=EvaluationDocuments(with_unigram(test, train, tokenizer.vocab_size), tokenizer.end_of_text),
            train=to_examples(train, context_length, tokenizer.end_of_text),
            validation=to_examples(validation, context_length, tokenizer.end_of_text),
            notes=(*reader.text.tokenizer.notes, *tokenizer.notes),
            details=reader.text.tokenizer.loaded(tokenizer.prefix_text),
        )

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """The negative log-likelihood of each document; one row per document."""
        chosen, test = parse_settings(PerplexitySettings, settings), data.test
        loglikelihood = functools.partial(
            adapter.rolling_loglikelihood,
            prefix_token=test.end_of_text,
            stride=chosen.stride,
            batch_size=chosen.batch_size,
        )
        score = _score_joined if chosen.join_documents else _score_apart
        nlls_nats = score(test, loglikelihood)
        return [
            {
                "document": i,
                "nll_nats": nll_nats,
                **vars(document),
                "tokens": len(document.tokens),
                INPUT: document.tokens.tolist(),
            }
            for i, (document, nll_nats) in enumerate(zip(test.documents, nlls_nats, strict=True))
        ]

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:  # noqa: ARG002
        """Perplexities and bits per byte, with standard errors from resampling documents.

        `unigram_perplexity` is that of a model that knows only the frequencies of the training tokens; a trained model
        is to be better. It is missing if no training split was read.
        """
        metrics = [
            _ratio_metric("perplexity", rows, "nll_nats", "tokens", "exp_ratio"),
            _ratio_metric("word_perplexity", rows, "nll_nats", "words", "exp_ratio"),
            _ratio_metric("bits_per_byte", rows, "nll_nats", "bytes", "bits_ratio"),
            Metric("tokens", sum(row["tokens"] for row in rows), "tokens", None, None, len(rows)),
        ]
        if all(row["unigram_nll_nats"] is not None for row in rows):
            floor = _ratio_metric("unigram_perplexity", rows, "unigram_nll_nats", "tokens", "exp_ratio")
            metrics.append(replace(floor, higher_is_better=None))
        return metrics

    def reader(self, settings: Settings, sources: Sources) -> CorpusReader:
        """The reader of the corpus under these settings; other tasks on the same text use it too."""
        chosen = parse_settings(PerplexitySettings, settings)
        identity = self.corpus.identify(chosen.splits, sources)
        text = identify_text(self.info, identity, chosen.tokenizer, sources, train_bytes=chosen.train_bytes)
        return CorpusReader(self.corpus, chosen, sources, text, text.token_folder(sources, chosen.test_bytes))


@dataclass(frozen=True)
class CorpusReader:
    """A corpus read under given settings; token ids are kept in `folder` for later cells."""

    corpus: Corpus
    chosen: PerplexitySettings
    sources: Sources
    text: TextIdentity
    folder: Path

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer, trained on the training documents if need be."""
        return load_tokenizer(self.text.tokenizer, lambda: (each.text for each in self.documents("train")))

    def documents(self, split: str) -> list[Document]:
        """The documents of a split that have at least one word, up to the setting's most bytes."""
        cap = self.chosen.train_bytes if split == "train" else self.chosen.test_bytes
        documents = [document for document in self.corpus.documents(split, self.sources) if document.text.split()]
        return documents if cap is None else take_bytes(documents, cap)

    def tokens(self, split: str, tokenizer: Tokenizer) -> list[TokenIds]:
        """Token ids of each document of a split; empty if that split is not read."""
        if split not in self.chosen.splits:
            return []
        return cached_tokens(
            self.folder / f"{split}.npz",
            tokenizer.vocab_size,
            lambda: tokenizer.encode([document.text for document in self.documents(split)]),
        )


def with_unigram(
    test: Sequence[TokenizedDocument], train: Sequence[TokenIds], vocab_size: int
) -> tuple[TokenizedDocument, ...]:
    """Test documents with their negative log-likelihood in nats under the add-one-smoothed unigrams of `train`.

    Without training documents they are returned as they are.
    """
    if not train:
        return tuple(test)
    counts = np.bincount(np.concatenate(train), minlength=vocab_size) + 1
    log_probabilities = np.log(counts / counts.sum())
    return tuple(
        replace(document, unigram_nll_nats=-float(log_probabilities[document.tokens].sum())) for document in test
    )


def _score_joined(test: EvaluationDocuments, loglikelihood: Loglikelihood) -> list[float]:
    separator = np.array([test.end_of_text], np.int32)
    parts = [part for document in test.documents for part in (document.tokens, separator)][:-1]
    scores = loglikelihood(np.concatenate(parts).tolist())
    ends = np.cumsum([len(part) for part in parts])[:-1]
    return [-float(part.sum()) for part in np.split(scores, ends)[::2]]


def _score_apart(test: EvaluationDocuments, loglikelihood: Loglikelihood) -> list[float]:
    return [-float(loglikelihood(document.tokens.tolist()).sum()) for document in test.documents]


def _ratio_metric(name: str, rows: Sequence[Row], top: str, bottom: str, statistic: RatioStatistic) -> Metric:
    from ...results.stats.statistics import ratio_bootstrap

    tops, bottoms = [row[top] for row in rows], [row[bottom] for row in rows]
    ratio = math.fsum(tops) / sum(bottoms)
    with np.errstate(over="ignore"):
        stderr = ratio_bootstrap(tops, bottoms, statistic)
        value, unit = (np.exp(ratio), "1") if statistic == "exp_ratio" else (ratio / math.log(2), "bits/byte")
    return Metric(name, float(value), unit, False, stderr, len(rows))

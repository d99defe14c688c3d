"""ROUGE of texts against references, by the package `rouge-score` with Porter's stemmer (Lin, ACL 2004).

A document scores its F-measure; a model scores the mean over documents, with a standard error and a 95% interval from
one bootstrap of whole documents. All are fractions; papers print percentages.

`rouge1` and `rouge2` count common words and pairs of words, `rougeL` the longest common subsequence of the whole texts.
`rougeLsum` takes it sentence by sentence, and `rouge-score` expects a line feed after each. Texts are split where `.`,
`!` or `?`, with any closing quotes and brackets, is followed by white space, and at the line feeds they have. The
splitter that `rouge-score` offers is NLTK's Punkt, a trained model that would have to be downloaded: numbers would then
depend on the version of it that a machine found. The other three kinds do not depend on the splitting.

If a document has several references, each kind takes the best, as `rouge-score` does. Texts are split into words by one
of two tokenizers:

- `default`: words as `rouge-score` splits them, runs of a-z and 0-9 in lower case, by Porter's stemmer. All other
  letters separate words and do not count.
- `unicode`: parts between Unicode's word boundaries (UAX #29, by the package `regex`) that have a letter or a digit,
  after NFKC and case folding, without a stemmer. In Han, Hiragana and scripts without spaces, such as Thai, each letter
  is a word.

With `unicode` the marks `。！？｡؟۔।॥` end a sentence too, with or without white space.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any

from ...results.record import Metric

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
TOKENIZERS = ("default", "unicode")
_AFTER_SENTENCE = re.compile(r"(?<=[.!?])([\"'”’)\]]*)\s+")
_AFTER_MARK = re.compile(r"(?<=[。！？｡؟۔।॥])([\"'”’)\]」』）]*)\s*")


class UnicodeWords:
    """The tokenizer `unicode`, with the method that `rouge-score` calls."""

    def tokenize(self, text: str) -> list[str]:
        """The words of a text."""
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        return [part for part in self._boundary.split(folded) if any(map(str.isalnum, part))]

    @cached_property
    def _boundary(self) -> Any:
        import regex

        return regex.compile(r"(?wV1)\b")


def scorer_identity(tokenizer: str) -> str:
    """What computes the scores: the package and its version, and how texts are split into words."""
    package = f"rouge-score {version('rouge-score')}"
    return f"{package}, stemmed" if tokenizer == "default" else f"{package}, words of regex {version('regex')}"


def dropped_letters(texts: Sequence[str]) -> tuple[int, int]:
    """How many letters and digits of texts the default tokenizer drops, and how many they have."""
    letters = [each for text in texts for each in text if each.isalnum()]
    return sum(re.search("[a-z0-9]", each.lower()) is None for each in letters), len(letters)


def split_sentences(text: str) -> str:
    """The text with a line feed after each sentence, as `rougeLsum` expects."""
    return _AFTER_SENTENCE.sub(r"\1\n", text)


def rouge_scores(
    references: Sequence[str | Sequence[str]], predictions: Sequence[str], tokenizer: str = "default"
) -> list[dict[str, float]]:
    """The F-measure of each document, by the names in `KINDS`; an empty text scores 0.

    Args:
        references: The reference of each document, or several.
        predictions: The summary that was written of each document.
        tokenizer: One of `TOKENIZERS`.
    """
    from rouge_score.rouge_scorer import RougeScorer

    by_words = tokenizer == "unicode"
    scorer = RougeScorer(list(KINDS), use_stemmer=True, tokenizer=UnicodeWords() if by_words else None)

    def lines(text: str) -> str:
        return split_sentences(_AFTER_MARK.sub(r"\1\n", text) if by_words else text)

    scores = []
    for reference, prediction in zip(references, predictions, strict=True):
        several = [reference] if isinstance(reference, str) else reference
        best = scorer.score_multi([lines(each) for each in several], lines(prediction))
        scores.append({kind: float(score.fmeasure) for kind, score in best.items()})
    return scores


def rouge_metrics(scores: Sequence[Mapping[str, float]]) -> list[Metric]:
    """The mean of each kind, and as `KIND_low95` and `KIND_high95` the ends of its 95% interval.

    The ends have no better direction and no standard error of their own; fewer than two documents have no interval.
    """
    from ...results.stats.statistics import mean_estimate

    metrics = []
    for kind in KINDS:
        mean = mean_estimate([score[kind] for score in scores])
        metrics.append(Metric(kind, mean.value, "1", True, mean.stderr, mean.n))
        ends = (("low95", mean.low), ("high95", mean.high))
        metrics += [Metric(f"{kind}_{end}", at, "1", None, None, mean.n) for end, at in ends if at is not None]
    return metrics

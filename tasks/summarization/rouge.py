"""ROUGE of texts against references, by the package `rouge-score` with Porter's stemmer (Lin, ACL 2004).

A document scores its F-measure; a model scores the mean over documents, with a standard error and a 95% interval from
one bootstrap of whole documents. All are fractions; papers print percentages.

`rouge1` and `rouge2` count common words and pairs of words, `rougeL` the longest common subsequence of the whole texts.
`rougeLsum` takes it sentence by sentence, and `rouge-score` expects a line feed after each. Texts are split where `.`,
`!` or `?`, with any closing quotes and brackets, is followed by white space, and at the line feeds they have. The
splitter that `rouge-score` offers is NLTK's Punkt, a trained model that would have to be downloaded: numbers would then
depend on which version of it a machine found. The other three do not change with the splitting.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ...results.record import Metric

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_AFTER_SENTENCE = re.compile(r"(?<=[.!?])([\"'”’)\]]*)\s+")


def split_sentences(text: str) -> str:
    """The text with a line feed after each sentence, as `rougeLsum` expects."""
    return _AFTER_SENTENCE.sub(r"\1\n", text)


def rouge_scores(references: Sequence[str], predictions: Sequence[str]) -> list[dict[str, float]]:
    """The F-measure of each document, by the names in `KINDS`; an empty text scores 0."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(KINDS), use_stemmer=True)
    return [
        {
            kind: float(score.fmeasure)
            for kind, score in scorer.score(split_sentences(reference), split_sentences(prediction)).items()
        }
        for reference, prediction in zip(references, predictions, strict=True)
    ]


def rouge_metrics(scores: Sequence[Mapping[str, float]]) -> list[Metric]:
    """The mean of each kind, and as `KIND_low95` and `KIND_high95` the ends of its 95% interval.

    The ends only describe and have no standard error of their own; fewer than two documents have no interval.
    """
    from ...results.stats.statistics import mean_estimate

    metrics = []
    for kind in KINDS:
        mean = mean_estimate([score[kind] for score in scores])
        metrics.append(Metric(kind, mean.value, "1", True, mean.stderr, mean.n))
        ends = (("low95", mean.low), ("high95", mean.high))
        metrics += [Metric(f"{kind}_{end}", at, "1", None, None, mean.n) for end, at in ends if at is not None]
    return metrics

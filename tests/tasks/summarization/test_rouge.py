"""Tests of tasks/summarization/rouge.py, against the package's own scores and known answers."""

from __future__ import annotations

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from hedgebench.tasks.summarization.rouge import KINDS, rouge_metrics, rouge_scores, split_sentences

REFERENCES = [
    "Hannah needs Betty's number but Amanda doesn't have it. She needs to contact Larry.",
    'Eric says "no!" Rob agrees (mostly.) They laugh\nat 3.5 jokes.',
    "The cats were running.",
    "One two three four.",
]
PREDICTIONS = [
    "Amanda can't find Betty's number. Hannah will text Larry, who called her last time.",
    "They laugh. Eric and Rob agreed!",
    "",
    "One two three four.",
]


def test_a_text_scores_one_with_itself_and_nothing_scores_zero() -> None:
    scores = rouge_scores(REFERENCES, PREDICTIONS)
    assert scores[3] == dict.fromkeys(KINDS, 1.0)
    assert scores[2] == dict.fromkeys(KINDS, 0.0)


def test_counts_by_hand() -> None:
    (score,) = rouge_scores(["the cat sat on the mat"], ["the cat on the sofa"])
    assert score["rouge1"] == pytest.approx(2 * (4 / 5) * (4 / 6) / (4 / 5 + 4 / 6))
    assert score["rouge2"] == pytest.approx(2 * (2 / 4) * (2 / 5) / (2 / 4 + 2 / 5))
    assert score["rougeL"] == score["rouge1"]


def test_words_are_stemmed() -> None:
    (score,) = rouge_scores(["The dogs barked loudly."], ["the dog barks loudly"])
    assert score["rouge1"] == 1.0


def test_scores_are_those_of_the_package_on_the_same_texts() -> None:
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    by_sentence = RougeScorer(["rougeLsum"], use_stemmer=True)
    scores = rouge_scores(REFERENCES, PREDICTIONS)
    for score, reference, prediction in zip(scores, REFERENCES, PREDICTIONS, strict=True):
        expected = {kind: each.fmeasure for kind, each in scorer.score(reference, prediction).items()}
        lines = by_sentence.score(split_sentences(reference), split_sentences(prediction))
        assert score == {**expected, "rougeLsum": lines["rougeLsum"].fmeasure}


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ('He said "no." She left.', ['He said "no."', "She left."]),
        ("It costs 3.5 euros", ["It costs 3.5 euros"]),
        ("One line\nand another.  Last", ["One line", "and another.", "Last"]),
        ("", [""]),
    ],
)
def test_sentences_end_where_a_mark_is_followed_by_white_space(text: str, lines: list[str]) -> None:
    assert split_sentences(text).split("\n") == lines


def test_sentences_matter_to_rouge_lsum_alone() -> None:
    (score,) = rouge_scores(["Rain fell. Ann slept."], ["Ann slept. Rain fell."])
    assert score["rougeLsum"] == 1.0
    assert score["rougeL"] == 0.5


def test_the_mean_has_its_error_and_the_ends_of_its_interval() -> None:
    values = np.random.default_rng(0).uniform(size=400)
    scores: list[dict[str, float]] = [dict.fromkeys(KINDS, float(value)) for value in values]
    metrics = {metric.name: metric for metric in rouge_metrics(scores)}
    assert list(metrics) == [f"{kind}{end}" for kind in KINDS for end in ("", "_low95", "_high95")]
    mean, low, high = (metrics[f"rouge1{end}"] for end in ("", "_low95", "_high95"))
    value, stderr = values.mean(), values.std(ddof=1) / 20
    assert mean.value == pytest.approx(value)
    assert mean.stderr == pytest.approx(stderr, rel=0.03)
    assert low.value == pytest.approx(value - 1.96 * stderr, abs=0.002)
    assert high.value == pytest.approx(value + 1.96 * stderr, abs=0.002)
    assert (mean.unit, mean.higher_is_better, mean.n) == ("1", True, 400)
    assert (low.stderr, low.higher_is_better) == (None, None)


def test_one_document_has_no_interval() -> None:
    metrics = rouge_metrics([dict.fromkeys(KINDS, 0.5)])
    assert [metric.name for metric in metrics] == list(KINDS)
    assert all(metric.stderr is None for metric in metrics)

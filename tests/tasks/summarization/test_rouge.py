"""Tests of tasks/summarization/rouge.py, against the package's own scores and known answers."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rouge_score")

from rouge_score.rouge_scorer import RougeScorer

from hedgebench.tasks.summarization.rouge import (
    KINDS,
    UnicodeWords,
    dropped_letters,
    rouge_metrics,
    rouge_scores,
    split_sentences,
)

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


@pytest.mark.parametrize(
    "text",
    [
        "Кошка сидела на ковре.",
        "สวัสดีครับ ผมชื่อเอ",
        "私は東京タワーを見た。",
        "नमस्ते दुनिया",
        "한국어 문장",
        "Öl 5",
        "مرحبا بالعالم",
    ],
)
def test_a_text_of_any_script_scores_one_with_itself_by_unicodes_words(text: str) -> None:
    assert rouge_scores([text], [text], "unicode")[0]["rouge1"] == 1.0


def test_other_letters_make_other_words() -> None:
    assert rouge_scores(["Öl 5"], ["Äl 5"])[0]["rouge1"] == 1.0
    assert rouge_scores(["Öl 5"], ["Äl 5"], "unicode")[0]["rouge1"] == 0.5
    (score,) = rouge_scores(["кошка сидела на ковре"], ["кошка спит на диване у двери"], "unicode")
    assert score["rouge1"] == pytest.approx(2 * (2 / 6) * (2 / 4) / (2 / 6 + 2 / 4))
    assert rouge_scores(["東京へ行く"], ["京都へ行く"], "unicode")[0]["rouge1"] == pytest.approx(4 / 5)
    assert rouge_scores(["雨が降った。犬は寝た。"], ["犬は寝た。雨が降った。"], "unicode")[0]["rougeLsum"] == 1.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cat can't sit, at 3.5 o'clock.", ["the", "cat", "can't", "sit", "at", "3.5", "o'clock"]),
        ("\uff21\uff22 12 Straße e\u0301t\u00e9 😀", ["ab", "12", "strasse", "été"]),
        ("私はカタカナで", ["私", "は", "カタカナ", "で"]),
        ("ผมชื่อ", ["ผ", "ม", "ชื่", "อ"]),
        ("नमस्ते दुनिया।", ["नमस्ते", "दुनिया"]),
        ("", []),
    ],
)
def test_words_are_those_of_unicodes_boundaries(text: str, words: list[str]) -> None:
    assert UnicodeWords().tokenize(text) == words


def test_words_of_ascii_are_those_of_the_package_without_its_stemmer() -> None:
    texts = ["The dogs barked at 12 cats", "all of them, (the cats) ran!"]
    plain = RougeScorer(list(KINDS), use_stemmer=False).score(*texts)
    assert rouge_scores(texts[:1], texts[1:], "unicode")[0] == {kind: plain[kind].fmeasure for kind in KINDS}


def test_letters_that_the_default_tokenizer_drops_are_counted() -> None:
    assert dropped_letters(["Öl 5", "abc!"]) == (1, 6)
    assert dropped_letters(["привет"]) == (6, 6)
    assert dropped_letters(["so 😀!"]) == (0, 2)


def test_of_several_references_each_kind_takes_the_best() -> None:
    several = ["the cat sat on the mat", "a dog barked", "cat on the sofa"]
    scorer = RougeScorer(list(KINDS), use_stemmer=True)
    expected = scorer.score_multi(several, "the cat on the sofa")
    (score,) = rouge_scores([several], ["the cat on the sofa"])
    assert score == {kind: expected[kind].fmeasure for kind in KINDS}
    assert score["rouge1"] == pytest.approx(8 / 9)
    assert rouge_scores([several], ["a dog barked"])[0] == dict.fromkeys(KINDS, 1.0)


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

"""Metrics out of samples: each against the number it must give, and refused where it does not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, matthews_corrcoef

from hedgebench.results.record import WITHOUT_BRANCH, Metric
from hedgebench.results.stats.scores import sample_scores, split_branch, stated_pairing

from ..correlations import pearson, spearman

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, 60).tolist()
GUESSES = [int(label) if keep else 1 - int(label) for label, keep in zip(LABELS, RNG.random(60) < 0.8, strict=True)]
TEXTS = [
    {"document": i, "nll_nats": float(n) * 3.1 + i, "tokens": int(n), "words": int(n) - 2, "bytes": 4 * int(n)}
    for i, n in enumerate(RNG.integers(10, 90, 7))
]


def metric(name: str, value: float) -> Metric:
    return Metric(name, value, "1", True, None, 1)


def total(key: str) -> float:
    return sum(row[key] for row in TEXTS)


@pytest.mark.parametrize(
    ("name", "value", "rows"),
    [
        ("perplexity", math.exp(total("nll_nats") / total("tokens")), TEXTS),
        ("word_perplexity", math.exp(total("nll_nats") / total("words")), TEXTS),
        ("bits_per_byte", total("nll_nats") / total("bytes") / math.log(2), TEXTS),
        ("accuracy", 0.25, [{"correct": c} for c in (True, False, False, False)]),
        ("accuracy", 0.5, [{"label": 1, "prediction": 1}, {"label": 2, "prediction": 0}]),
        *[
            (name, float(value), [{"label": a, "prediction": b} for a, b in zip(LABELS, GUESSES, strict=True)])
            for name, value in (("matthews", matthews_corrcoef(LABELS, GUESSES)), ("f1", f1_score(LABELS, GUESSES)))
        ],
        *[
            (name, correlation([1, 2, 3, 4], [2, 1.5, 7, 7]), [{"label": a, "prediction": b} for a, b in pairs])
            for name, correlation in (("pearson", pearson), ("spearman", spearman))
            for pairs in [list(zip([1, 2, 3, 4], [2, 1.5, 7, 7], strict=True))]
        ],
        ("rouge1", 0.4, [{"rouge1": 0.3}, {"rouge1": 0.5}]),
    ],
)
def test_a_metric_is_found_in_its_samples(name: str, value: float, rows: list[dict[str, Any]]) -> None:
    scores = sample_scores(metric(name, value), rows)
    assert scores is not None
    assert len(scores.labels) == len(rows)
    assert scores.resampled(np.ones((1, len(rows))))[0] == pytest.approx(value)


def test_a_resample_is_the_metric_of_the_rows_it_holds() -> None:
    scores = sample_scores(metric("perplexity", math.exp(total("nll_nats") / total("tokens"))), TEXTS)
    assert scores is not None
    weights = np.array([[3.0, 0, 0, 1, 0, 0, 0]])
    expected = math.exp(
        (3 * TEXTS[0]["nll_nats"] + TEXTS[3]["nll_nats"]) / (3 * TEXTS[0]["tokens"] + TEXTS[3]["tokens"])
    )
    assert scores.resampled(weights)[0] == pytest.approx(expected)


def test_samples_that_give_another_number_are_not_used() -> None:
    assert sample_scores(metric("accuracy", 0.26), [{"correct": c} for c in (True, False, False, False)]) is None


def test_the_split_that_gives_the_number_is_the_one_that_is_used() -> None:
    rows = [{"split": "matched", "label": 1, "prediction": 1}, {"split": "mismatched", "label": 1, "prediction": 0}]
    scores = sample_scores(metric("accuracy_mismatched", 0.0), [*rows, {**rows[0], "row": 1}])
    assert scores is not None
    assert scores.labels == ("split=mismatched label=1",)


def test_a_record_states_which_documents_pair() -> None:
    rows = [{"row": i, "label": 1, "prediction": guess} for i, guess in enumerate((1, 1, 0, 1))]
    stated = stated_pairing(metric("accuracy", 0.75), rows, "f00d")
    assert stated["paired_by"] == "documents"
    other_answers = [{**row, "prediction": 1 - row["prediction"]} for row in rows]
    assert stated_pairing(metric("accuracy", 0.25), other_answers, "f00d") == stated
    others = [{**row, "row": row["row"] + 1} for row in rows]
    digests = {
        stated_pairing(metric("accuracy", 0.75), found, data)["paired_digest"]
        for found, data in ((rows, "f00d"), (others, "f00d"), (rows, "beef"))
    }
    assert len(digests) == 3


def test_nothing_pairs_without_a_score_of_single_documents() -> None:
    alone = [{"correct": 1}]
    for found, rows in ((None, alone), (metric("decode_ms", 2.0), [{"ms": 1}] * 3), (metric("accuracy", 1.0), alone)):
        assert stated_pairing(found, rows, "f00d") == {"paired_by": "none", "paired_digest": "none"}


def test_a_hybrids_rows_hold_what_its_window_alone_answers() -> None:
    rows = [{"row": 0, "correct": 1, WITHOUT_BRANCH: {"correct": 0}}, {"row": 1, "correct": 1, WITHOUT_BRANCH: {}}]
    own, alone = split_branch(rows)
    assert own == [{"row": 0, "correct": 1}, {"row": 1, "correct": 1}]
    assert alone == [{"row": 0, "correct": 0}, {"row": 1, "correct": 1}]
    scores = sample_scores(metric(f"accuracy_{WITHOUT_BRANCH}", 0.5), rows)
    assert scores is not None
    assert scores.columns[:, 0].tolist() == [0, 1]
    assert split_branch(own) == (own, [])


@pytest.mark.parametrize(
    "rows", [[], [{"nll_nats": 1.0}], [{"label": "a", "prediction": "a"}], [{"label": 2, "prediction": 1}]]
)
def test_rows_that_do_not_hold_what_is_needed_give_nothing(rows: list[dict[str, Any]]) -> None:
    for name in ("perplexity", "matthews", "pearson", "rouge1"):
        assert sample_scores(metric(name, 1.0), rows) is None

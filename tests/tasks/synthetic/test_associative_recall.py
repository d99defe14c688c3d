"""Tests of tasks/synthetic/associative_recall.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch

from hedgebench.adapters.base import IGNORED, AttentionMaps, Capability
from hedgebench.tasks.base import Sources, Task
from hedgebench.tasks.settings import as_settings
from hedgebench.tasks.synthetic.associative_recall import (
    ASSOCIATIVE_RECALL,
    RecallSettings,
    attention,
    generate,
    generate_splits,
    most_frequent_value,
    to_examples,
)

SMALL = RecallSettings(vocab_size=12, length=20, train_samples=50, validation_samples=20, test_samples=40)


def recall(context: list[int]) -> np.ndarray[Any, Any]:
    """What softmax attention learns: the value that followed the last token when it occurred before."""
    scores = np.zeros(12)
    pairs = dict(zip(context[0:-1:2], context[1:-1:2], strict=False))
    if len(context) % 2 and context[-1] in pairs:
        scores[pairs[context[-1]]] = 1.0
    return scores


def test_it_is_a_task() -> None:
    assert isinstance(ASSOCIATIVE_RECALL, Task)


def test_keys_and_values_alternate_and_are_disjoint() -> None:
    tokens = generate(np.random.default_rng(0), rows=100, length=20, vocab_size=12).tokens
    assert tokens.shape == (100, 20)
    assert set(np.unique(tokens[:, 0::2])) == set(range(6))
    assert set(np.unique(tokens[:, 1::2])) == set(range(6, 12))


def test_a_key_keeps_its_value_within_a_sequence_and_not_between_them() -> None:
    tokens = generate(np.random.default_rng(0), rows=200, length=20, vocab_size=12).tokens
    maps = [dict(zip(row[0::2], row[1::2], strict=True)) for row in tokens.tolist()]
    for row, value_of in zip(tokens.tolist(), maps, strict=True):
        assert all(value_of[key] == value for key, value in zip(row[0::2], row[1::2], strict=True))
    assert len({value_of.get(0) for value_of in maps}) > 2


@pytest.mark.parametrize("length", [4, 6, 64])
def test_the_query_occurred_before(length: int) -> None:
    sequences = generate(np.random.default_rng(1), rows=300, length=length, vocab_size=40)
    assert all(row[-2] in row[:-2:2] for row in sequences.tokens.tolist())
    assert sequences.repeated[:, -1].all()
    assert not sequences.repeated[:, 0].any()


def test_queries_do_not_favour_frequent_keys() -> None:
    tokens = generate(np.random.default_rng(2), rows=4000, length=40, vocab_size=8).tokens
    assert np.allclose(np.bincount(tokens[:, -2]) / 4000, 0.25, atol=0.03)


def test_loss_is_taken_where_a_value_can_be_recalled() -> None:
    sequences = generate(np.random.default_rng(3), rows=30, length=20, vocab_size=12)
    examples = to_examples(sequences, "recall")
    assert examples.inputs.shape == examples.targets.shape == (30, 19)
    for row, targets in zip(sequences.tokens.tolist(), examples.targets.tolist(), strict=True):
        expected = [row[i + 1] if i % 2 == 0 and row[i] in row[:i:2] else IGNORED for i in range(len(targets))]
        assert targets == expected


def test_final_loss_is_taken_on_the_answer_alone() -> None:
    sequences = generate(np.random.default_rng(3), rows=30, length=20, vocab_size=12)
    targets = to_examples(sequences, "final").targets
    assert (targets[:, :-1] == IGNORED).all()
    assert (targets[:, -1] == sequences.tokens[:, -1]).all()


def test_splits_are_reproducible_and_differ_from_each_other() -> None:
    first, again = generate_splits(SMALL), generate_splits(SMALL)
    assert all((first[name].tokens == again[name].tokens).all() for name in first)
    assert not (first["train"].tokens[:20] == first["validation"].tokens).all()


def test_more_training_samples_leave_the_test_split_alone() -> None:
    more = generate_splits(replace(SMALL, train_samples=70))
    assert (more["test"].tokens == generate_splits(SMALL)["test"].tokens).all()


def test_the_fingerprint_follows_the_data(sources: Sources) -> None:
    def fingerprint(settings: RecallSettings) -> str:
        return ASSOCIATIVE_RECALL.identify(as_settings(settings), sources).fingerprint

    assert fingerprint(SMALL) == fingerprint(SMALL)
    assert fingerprint(SMALL) != fingerprint(replace(SMALL, data_seed=1))


def test_a_model_that_recalls_is_always_right(sources: Sources, window_model: Callable[..., Any]) -> None:
    data = ASSOCIATIVE_RECALL.load(as_settings(SMALL), sources)
    _, adapter = window_model(12, 20, recall)
    rows = ASSOCIATIVE_RECALL.predict(adapter, data, as_settings(replace(SMALL, batch_size=7)))
    metrics = {metric.name: metric for metric in ASSOCIATIVE_RECALL.score(rows, as_settings(SMALL))}
    assert [row["sample"] for row in rows] == list(range(40))
    assert metrics["accuracy"].value == 1.0
    assert metrics["accuracy"].stderr == 0.0
    assert metrics["accuracy"].n == 40


def test_a_model_that_pools_values_gets_the_pooled_accuracy(sources: Sources, window_model: Callable[..., Any]) -> None:
    data = ASSOCIATIVE_RECALL.load(as_settings(SMALL), sources)
    _, adapter = window_model(12, 20, lambda context: np.bincount(context[1::2], minlength=12).astype(float))
    rows = ASSOCIATIVE_RECALL.predict(adapter, data, as_settings(SMALL))
    metrics = {metric.name: metric.value for metric in ASSOCIATIVE_RECALL.score(rows, as_settings(SMALL))}
    assert metrics["accuracy"] == metrics["pooled_accuracy"]


def test_chance_is_one_over_the_number_of_values() -> None:
    row = {"sample": 0, "answer": 7, "prediction": 6, "correct": False, "pooled": 8}
    metrics = {metric.name: metric.value for metric in ASSOCIATIVE_RECALL.score([row], as_settings(SMALL))}
    assert metrics == {"accuracy": 0.0, "pooled_accuracy": 0.0, "chance": 1 / 6}


def test_most_frequent_value_leaves_out_the_answer() -> None:
    assert most_frequent_value(np.array([[0, 5, 1, 5, 2, 6, 1, 6]], np.int32), 8) == [5]


def test_limit_keeps_the_first_test_rows(sources: Sources) -> None:
    whole = ASSOCIATIVE_RECALL.load(as_settings(SMALL), sources)
    limited = ASSOCIATIVE_RECALL.load(as_settings(SMALL), sources, limit=3)
    assert (limited.test.tokens == whole.test.tokens[:3]).all()
    assert limited.shape.vocab_size == 12


@pytest.mark.parametrize("scale", ["smoke", "small", "paper"])
def test_every_scale_is_valid(scale: str, sources: Sources) -> None:
    identity = ASSOCIATIVE_RECALL.identify(ASSOCIATIVE_RECALL.info.scales[scale].settings, sources)
    assert identity.source == "generated"


@pytest.mark.parametrize("wrong", [{"length": 7}, {"vocab_size": 2}, {"loss": "all"}])
def test_impossible_settings_are_refused(wrong: dict[str, Any], sources: Sources) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is "):
        ASSOCIATIVE_RECALL.identify(wrong, sources)


class KnownAttention:
    """Two layers: the first looks at all keys alike, the second at the last key alone."""

    capabilities = frozenset({Capability.ATTENTION_WEIGHTS})
    device = torch.device("cpu")

    def compare_attention(self, inputs: Any, visit: Callable[[int, AttentionMaps], None]) -> None:
        n = inputs.shape[1]
        products = torch.zeros(1, 2, n, n).masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf)
        even, last = products.softmax(-1), torch.eye(n).expand(1, 2, n, n)
        for layer, weights in enumerate((even, last)):
            visit(layer, AttentionMaps(weights, even, products))


def test_spikiness_of_known_attention_is_known(sources: Sources, window_model: Callable[..., Any]) -> None:
    inputs = np.zeros((5, 19), np.int32)
    columns = attention(cast("Any", KnownAttention()), inputs, rows=3)
    keys = np.arange(8, 20)
    even, zeros = np.log(keys).mean(), (keys - 1).sum() / keys.sum()
    assert columns["entropy"][0] == pytest.approx((even, 0.0))
    assert columns["zeros"][0] == pytest.approx((0.0, zeros))
    assert [column[3:] for column in columns.values()] == [[None, None], [None, None]]

    row = {"sample": 0, "answer": 7, "prediction": 6, "correct": False, "pooled": 8}
    rows = [row | {name: column[i] for name, column in columns.items()} for i in range(5)]
    metrics = {metric.name: metric for metric in ASSOCIATIVE_RECALL.score(rows, as_settings(SMALL))}
    assert metrics["attention_entropy"].value == pytest.approx(even / 2)
    assert metrics["attention_entropy_last_layer"].value == pytest.approx(0.0)
    assert metrics["attention_zeros_last_layer"].value == pytest.approx(zeros)
    assert metrics["attention_entropy"].n == 3
    _, blind = window_model(12, 20, recall)
    assert attention(blind, inputs, rows=3) == {}

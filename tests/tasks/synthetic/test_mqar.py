"""Tests of tasks/synthetic/mqar.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgebench.adapters.base import IGNORED
from hedgebench.tasks.base import Sources, Task
from hedgebench.tasks.settings import as_settings
from hedgebench.tasks.synthetic.mqar import (
    MQAR,
    MqarSettings,
    distinct_integers,
    generate,
    generate_splits,
    power_law_gaps,
    to_examples,
)

TINY = MqarSettings(
    vocab_size=24,
    train_lengths=(12, 20),
    train_pairs=(2, 3),
    train_samples=(30, 10),
    test_lengths=(12, 20, 20),
    test_pairs=(2, 3, 5),
    test_samples=8,
    validation_samples=5,
    batch_size=7,
)


def look_up(context: list[int]) -> np.ndarray[Any, Any]:
    """The value after the first place where the last token stands."""
    scores = np.zeros(24)
    place = context.index(context[-1])
    if place + 1 < len(context):
        scores[context[place + 1]] = 1.0
    return scores


def test_it_is_a_task() -> None:
    assert isinstance(MQAR, Task)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(0, 6), st.booleans(), st.integers(0, 100))
def test_each_key_is_asked_for_once_after_the_pairs_and_its_value_is_the_target(
    pairs: int, room: int, fill: bool, seed: int
) -> None:
    length = 4 * pairs + 2 * room
    chosen = replace(TINY, train_lengths=(length,), train_pairs=(pairs,), train_samples=(1,), random_fill=fill)
    sequences = generate(np.random.default_rng(seed), 6, length, pairs, chosen)
    for tokens, targets in zip(sequences.tokens.tolist(), sequences.targets.tolist(), strict=True):
        keys, values = tokens[0 : 2 * pairs : 2], tokens[1 : 2 * pairs : 2]
        assert len(set(keys)) == len(set(values)) == pairs
        assert set(keys) <= set(range(1, 12))
        assert set(values) <= set(range(12, 24))
        asked = [i for i, target in enumerate(targets) if target != IGNORED]
        assert all(2 * pairs <= i < length and i % 2 == 0 for i in asked)
        assert sorted(tokens[i] for i in asked) == sorted(keys)
        assert all(targets[i] == dict(zip(keys, values, strict=True))[tokens[i]] for i in asked)
        if not fill:
            assert sum(token != 0 for token in tokens) == 3 * pairs


def test_distinct_integers_are_distinct_and_every_order_is_as_likely() -> None:
    drawn = distinct_integers(np.random.default_rng(0), 12_000, 3, 2)
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == 6
    assert np.abs(counts / 12_000 - 1 / 6).max() < 0.015


def test_gaps_follow_the_power_law_without_replacement() -> None:
    gaps = power_law_gaps(np.random.default_rng(0), 20_000, space=10, count=3, power_a=0.01)
    weights = np.arange(1, 11) ** (0.01 - 1)
    first = np.bincount(gaps[:, 0], minlength=10) / 20_000
    assert np.abs(first - weights / weights.sum()).max() < 0.01
    assert all(len(set(row)) == 3 for row in gaps.tolist())
    second = np.bincount(gaps[gaps[:, 0] == 0, 1], minlength=10) / (gaps[:, 0] == 0).sum()
    assert np.abs(second[1:] - weights[1:] / weights[1:].sum()).max() < 0.02


def test_splits_are_disjoint_reproducible_and_take_turns_between_settings() -> None:
    found, again = generate_splits(TINY), generate_splits(TINY)
    assert {name: len(split) for name, split in found.items()} == {"train": 40, "validation": 10, "test": 24}
    assert all((found[name].tokens == again[name].tokens).all() for name in found)
    assert len({row.tobytes() for split in found.values() for row in split.tokens}) == 74
    assert list(zip(found["test"].lengths[:4], found["test"].pairs[:4], strict=True)) == [
        (12, 2),
        (20, 3),
        (20, 5),
        (12, 2),
    ]


def test_padding_of_shorter_sequences_is_masked_and_has_no_target() -> None:
    examples = to_examples(generate_splits(TINY)["train"])
    assert examples.attention_mask is not None
    assert set(examples.attention_mask.sum(1).tolist()) == {12, 20}
    assert (examples.targets[~examples.attention_mask] == IGNORED).all()


def test_a_model_that_looks_keys_up_is_always_right(sources: Sources, window_model: Callable[..., Any]) -> None:
    data = MQAR.load(as_settings(TINY), sources)
    _, adapter = window_model(24, 20, look_up)
    rows = MQAR.predict(adapter, data, as_settings(TINY))
    metrics = MQAR.score(rows, as_settings(TINY))
    assert [row["sample"] for row in rows] == list(range(24))
    at = [dict(m.at) for m in metrics if m.name == "setting_accuracy"]
    assert at == [{"seq_len": 12, "pairs": 2}, {"seq_len": 20, "pairs": 3}, {"seq_len": 20, "pairs": 5}]
    assert all((m.value, m.stderr) == (1.0, 0.0) for m in metrics if m.name.endswith("accuracy"))
    assert metrics[0].n == 24


def test_settings_weigh_the_same_in_the_headline() -> None:
    def row(length: int, answers: list[int], predictions: list[int]) -> dict[str, Any]:
        return {"length": length, "pairs": len(answers), "answers": answers, "predictions": predictions}

    rows = [row(8, [20, 21], [20, 22]), row(20, [20, 21, 22, 23], [20, 21, 22, 23])]
    metrics = {metric.name: metric.value for metric in MQAR.score(rows, as_settings(TINY))}
    assert metrics["accuracy"] == 0.75
    assert metrics["chance_in_context"] == (1 / 2 + 1 / 4) / 2


def test_a_limit_keeps_rows_of_each_setting(sources: Sources) -> None:
    data = MQAR.load(as_settings(TINY), sources, limit=4)
    assert data.test.pairs.tolist() == [2, 3, 5, 2]
    assert (data.shape.context_length, data.shape.vocab_size) == (20, 24)


def test_the_fingerprint_follows_the_data(sources: Sources) -> None:
    found = [MQAR.identify(as_settings(replace(TINY, data_seed=seed)), sources).fingerprint for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train_pairs": (2,)}, "take as many values each"),
        ({"train_lengths": (12, 21)}, "3 pairs do not fit 21 tokens"),
        ({"test_pairs": (2, 3, 6)}, "6 pairs do not fit 20 tokens"),
        ({"vocab_size": 11}, "vocab_size is 11; 5 pairs take at least 12"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any], message: str, sources: Sources) -> None:
    with pytest.raises(ValueError, match=message):
        MQAR.identify({**as_settings(TINY), **wrong}, sources)

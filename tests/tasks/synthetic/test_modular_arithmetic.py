"""Tests of tasks/synthetic/modular_arithmetic.py."""

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
from hedgebench.tasks.synthetic.modular_arithmetic import (
    MODULAR_ARITHMETIC,
    ArithmeticSettings,
    generate,
    generate_splits,
    to_examples,
)

TINY = ArithmeticSettings(
    train_length=7,
    held_out_length=5,
    test_lengths=(7, 9, 13),
    train_samples=60,
    validation_samples=20,
    test_samples=10,
    batch_size=4,
)


def value(tokens: list[int], modulus: int = 5) -> int:
    """What Python makes of the expression before `=`."""
    names = [*map(str, range(modulus)), "+", "-", "*", "="]
    text = "".join(names[token] for token in tokens)
    return int(eval(text[: text.index("=")])) % modulus


def calculator(context: list[int]) -> np.ndarray[Any, Any]:
    scores = np.zeros(9)
    if context[-1] == 8:
        scores[value(context)] = 1.0
    return scores


def test_it_is_a_task() -> None:
    assert isinstance(MODULAR_ARITHMETIC, Task)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 20), st.integers(0, 4), st.integers(2, 9), st.integers(0, 1000))
def test_values_are_those_of_pythons_arithmetic(shortest: int, more: int, modulus: int, seed: int) -> None:
    lengths = (2 * shortest + 1, 2 * (shortest + more) + 1)
    chosen = replace(TINY, modulus=modulus)
    found = generate(np.random.default_rng(seed), 5, lengths, lengths[1] + 3, chosen)
    for tokens, length, answer in zip(found.tokens.tolist(), found.lengths, found.answers, strict=True):
        assert lengths[0] <= length <= lengths[1]
        assert length % 2 == 1
        assert tokens[length] == modulus + 3
        assert not any(tokens[length + 1 :])
        assert value(tokens, modulus) == answer


def test_training_is_on_short_expressions_and_no_test_expression_is_among_them() -> None:
    found = generate_splits(TINY)
    assert set(found["train"].lengths.tolist()) == {1, 3, 5, 7}
    assert set(found["validation"].lengths.tolist()) == {5, 7}
    assert found["test"].lengths[:4].tolist() == [13, 9, 7, 13]
    texts = [{tuple(r[: n + 1]) for r, n in zip(s.tokens.tolist(), s.lengths, strict=True)} for s in found.values()]
    assert len(set.union(*texts)) == sum(map(len, texts))


def test_the_only_target_is_that_of_the_equals_sign() -> None:
    expressions = generate_splits(TINY)["train"]
    examples = to_examples(expressions)
    assert ((examples.targets != IGNORED) == (examples.inputs == 8)).all()
    assert (examples.targets[examples.targets != IGNORED] == expressions.answers).all()
    assert examples.attention_mask is not None
    assert (examples.attention_mask.sum(1) == expressions.lengths + 1).all()


def test_a_calculator_is_right_at_every_length(sources: Sources, window_model: Callable[..., Any]) -> None:
    data = MODULAR_ARITHMETIC.load(as_settings(TINY), sources)
    _, adapter = window_model(9, 14, calculator)
    rows = MODULAR_ARITHMETIC.predict(adapter, data, as_settings(TINY))
    metrics = MODULAR_ARITHMETIC.score(rows, as_settings(TINY))
    assert [m.value for m in metrics] == [1.0] * 5 + [0.2]
    assert [m.name for m in metrics[:2]] == ["accuracy", "in_range_accuracy"]
    assert [m.n for m in metrics[:2]] == [20, 10]


def test_lengths_beyond_training_make_the_headline() -> None:
    rows = [{"length": n, "answer": 1, "prediction": int(n <= 7)} for n in (7, 9, 13)]
    metrics = {m.name: m.value for m in MODULAR_ARITHMETIC.score(rows, as_settings(TINY)) if not m.at}
    assert metrics == {"accuracy": 0.0, "in_range_accuracy": 1.0, "chance": 0.2}


@pytest.mark.parametrize("scale", ["smoke", "small", "paper"])
def test_a_limit_of_one_leaves_the_headline(scale: str, sources: Sources, window_model: Callable[..., Any]) -> None:
    info = MODULAR_ARITHMETIC.info
    chosen = {**info.scales[scale].settings, "train_samples": 50, "validation_samples": 5, "test_samples": 3}
    data = MODULAR_ARITHMETIC.load(chosen, sources, limit=1)
    _, adapter = window_model(9, data.shape.context_length, calculator)
    metrics = MODULAR_ARITHMETIC.score(MODULAR_ARITHMETIC.predict(adapter, data, chosen), chosen)
    assert {metric.name: metric.value for metric in metrics}[info.main_metric] == 1.0


def test_a_limit_keeps_rows_of_each_length(sources: Sources) -> None:
    data = MODULAR_ARITHMETIC.load(as_settings(TINY), sources, limit=4)
    assert data.test.lengths.tolist() == [13, 9, 7, 13]
    assert (data.shape.context_length, data.shape.vocab_size) == (14, 9)


def test_the_fingerprint_follows_the_data(sources: Sources) -> None:
    found = [MODULAR_ARITHMETIC.identify(as_settings(replace(TINY, data_seed=s)), sources) for s in (0, 0, 1)]
    assert found[0].fingerprint == found[1].fingerprint != found[2].fingerprint


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train_length": 8}, "a length is 8; an expression has an odd number of tokens, such as 9"),
        ({"held_out_length": 9}, "held_out_length is 9; allowed: 1 to 7"),
        ({"modulus": 1}, "modulus is 1; allowed: 2 or more"),
        ({"test_lengths": (3, 7)}, "train_length 7 must be in between"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any], message: str, sources: Sources) -> None:
    with pytest.raises(ValueError, match=message):
        MODULAR_ARITHMETIC.identify({**as_settings(TINY), **wrong}, sources)

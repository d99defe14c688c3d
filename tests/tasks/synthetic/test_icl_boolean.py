"""Tests of tasks/synthetic/icl_boolean.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hedgebench.adapters.base import IGNORED, Adapter
from hedgebench.tasks.base import Sources, Task
from hedgebench.tasks.settings import as_settings
from hedgebench.tasks.synthetic.icl_boolean import (
    ICL_BOOLEAN,
    ICL_PARITY,
    BooleanSettings,
    generate,
    generate_splits,
    label,
    nearest_labels,
    to_examples,
)

TINY = BooleanSettings(
    variables=4, points=12, last_points=3, train_samples=30, validation_samples=10, test_samples=50, batch_size=16
)
PARITY = replace(TINY, function="parity")
VectorModel = Callable[..., Adapter]


def is_true(function: str, weights: list[int], x: list[int]) -> bool:
    """A label by the definition, one point at a time."""
    if function == "parity":
        return sum(v == 1 for v, w in zip(x, weights, strict=True) if w) % 2 == 1
    return all(v == w for v, w in zip(x, weights, strict=True) if w)


def eliminate(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """A learner of parities of two variables: the first pair that fits all labels before."""
    logits = np.zeros((*vectors.shape[:2], 2))
    for row, prompt in enumerate(vectors):
        x, labels = prompt[::2], prompt[1::2, 0] == 1
        for k in range(len(x)):
            fits = [p for p in combinations(range(x.shape[1]), 2) if (parity(x[:k], p) == labels[:k]).all()]
            logits[row, 2 * k, int(parity(x[k], fits[0]))] = 1
    return logits


def parity(x: NDArray[np.float64], pair: tuple[int, ...]) -> NDArray[np.bool_]:
    return np.asarray((x[..., pair] == 1).sum(-1) % 2 == 1)


@pytest.mark.parametrize("task", [ICL_BOOLEAN, ICL_PARITY])
def test_they_are_tasks(task: object) -> None:
    assert isinstance(task, Task)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["conjunction", "parity"]), st.integers(2, 9), st.integers(0, 100))
def test_labels_are_those_of_the_definition(function: str, variables: int, seed: int) -> None:
    chosen = replace(TINY, function=function, variables=variables)
    prompts = generate(np.random.default_rng(seed), 5, chosen)
    assert (prompts.labels == label(function, prompts.weights, prompts.x)).all()
    for weights, x, labels in zip(prompts.weights.tolist(), prompts.x.tolist(), prompts.labels.tolist(), strict=True):
        assert [is_true(function, weights, point) for point in x] == labels


def test_conjunctions_have_the_shares_of_the_paper() -> None:
    prompts = generate(np.random.default_rng(0), 2_000, replace(TINY, variables=20))
    shares = [float((prompts.weights == w).mean()) for w in (-1, 0, 1)]
    assert shares == pytest.approx([0.15, 0.7, 0.15], abs=0.01)
    assert prompts.labels.mean() == pytest.approx(0.3 + 0.7 * (0.7 + 0.3 / 2) ** 20, abs=0.02)


def test_parities_are_of_as_many_variables_as_asked_for_and_balanced() -> None:
    prompts = generate(np.random.default_rng(0), 2_000, replace(PARITY, parity_of=3))
    assert (prompts.weights.sum(1) == 3).all()
    assert prompts.labels.mean() == pytest.approx(0.5, abs=0.02)


def test_the_nearest_neighbour_is_that_of_a_loop() -> None:
    prompts = generate(np.random.default_rng(1), 20, TINY)
    found = nearest_labels(prompts)
    for i, (x, labels) in enumerate(zip(prompts.x, prompts.labels, strict=True)):
        for k in range(1, len(x)):
            assert found[i, k] == labels[np.abs(x[:k] - x[k]).sum(-1).argmin()]
    assert not found[:, 0].any()


def test_a_learner_by_elimination_gets_every_last_parity_right(sources: Sources, vector_model: VectorModel) -> None:
    chosen = as_settings(replace(PARITY, points=30))
    rows = ICL_PARITY.predict(vector_model(eliminate), ICL_PARITY.load(chosen, sources), chosen)
    metrics = {f"{m.name}{dict(m.at) or ''}": m for m in ICL_PARITY.score(rows, chosen)}
    assert metrics["accuracy"].value == 1.0
    assert metrics["accuracy"].n == 50
    assert 0.2 < (metrics["accuracy_after{'examples': 0}"].value or 0) < 0.8
    assert metrics["accuracy_after{'examples': 29}"].value == 1.0


def test_a_model_that_always_says_true_has_the_share_of_true_labels(
    sources: Sources, vector_model: VectorModel
) -> None:
    data = ICL_BOOLEAN.load(as_settings(TINY), sources)
    adapter = vector_model(lambda vectors: np.broadcast_to([0.0, 1.0], (*vectors.shape[:2], 2)).copy())
    metrics = {
        m.name: m for m in ICL_BOOLEAN.score(ICL_BOOLEAN.predict(adapter, data, as_settings(TINY)), as_settings(TINY))
    }
    share = float(data.test.labels[:, -3:].mean())
    assert metrics["accuracy"].value == pytest.approx(share)
    assert metrics["constant_accuracy"].value == pytest.approx(max(share, 1 - share))


def test_targets_stand_at_points_and_labels_are_read_after_them() -> None:
    prompts = generate_splits(TINY)["train"]
    examples = to_examples(prompts)
    assert examples.inputs.shape == (30, 23, 4)
    assert (examples.targets[:, ::2] == prompts.labels).all()
    assert (examples.targets[:, 1::2] == IGNORED).all()
    assert ((examples.inputs[:, 1::2, 0] == 1) == prompts.labels[:, :-1]).all()


def test_splits_share_no_prompt_and_a_limit_keeps_the_first_rows(sources: Sources) -> None:
    found = generate_splits(TINY)
    assert len({x.tobytes() for split in found.values() for x in split.x}) == 90
    data = ICL_BOOLEAN.load(as_settings(TINY), sources, limit=3)
    assert (data.test.x == found["test"].x[:3]).all()
    assert (data.shape.context_length, data.shape.input_dim, data.shape.vocab_size) == (23, 4, 2)
    assert not data.shape.is_regression


def test_the_fingerprint_follows_the_data(sources: Sources) -> None:
    changes: list[dict[str, Any]] = [{}, {}, {"data_seed": 1}, {"function": "parity"}]
    found = [ICL_BOOLEAN.identify({**as_settings(TINY), **change}, sources).fingerprint for change in changes]
    assert found[0] == found[1]
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"function": "majority"}, "function is 'majority'; choose 'conjunction' or 'parity'"),
        ({"parity_of": 5}, "parity_of is 5; allowed: 1 to 4"),
        ({"last_points": 12}, "last_points is 12; allowed: 1 to 11"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any], message: str, sources: Sources) -> None:
    with pytest.raises(ValueError, match=message):
        ICL_BOOLEAN.identify({**as_settings(TINY), **wrong}, sources)

"""Tests of tasks/synthetic/icl_regression.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hedgebench.adapters.base import Adapter
from hedgebench.results.record import Metric
from hedgebench.tasks.base import Sources, Task
from hedgebench.tasks.settings import as_settings
from hedgebench.tasks.synthetic.icl_regression import (
    ICL_REGRESSION,
    REFERENCES,
    RegressionSettings,
    generate,
    generate_splits,
    one_step_weights,
    references,
    ridge_weights,
    to_examples,
)

TINY = RegressionSettings(
    dimension=3, points=6, train_samples=20, validation_samples=10, test_samples=40, batch_size=16
)
VectorModel = Callable[..., Adapter]


def measured(adapter: Adapter, sources: Sources, settings: RegressionSettings = TINY) -> dict[str, Metric]:
    data = ICL_REGRESSION.load(as_settings(settings), sources)
    rows = ICL_REGRESSION.predict(adapter, data, as_settings(settings))
    metrics = ICL_REGRESSION.score(rows, as_settings(settings))
    return {f"{m.name}{dict(m.at) or ''}": m for m in metrics}


def least_squares(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a model would give that fits the pairs before each x, by a library."""
    outputs = np.zeros((*vectors.shape[:2], 1))
    for row, prompt in enumerate(vectors):
        x, y = prompt[::2], prompt[1::2, 0]
        for k in range(1, len(x)):
            outputs[row, 2 * k, 0] = x[k] @ np.linalg.lstsq(x[:k], y[:k], rcond=None)[0]
    return outputs


def test_it_is_a_task() -> None:
    assert isinstance(ICL_REGRESSION, Task)


def test_answers_are_a_linear_function_of_the_prompts_own() -> None:
    prompts = generate(np.random.default_rng(0), 50, TINY)
    for w, x, y in zip(prompts.weights, prompts.x, prompts.y, strict=True):
        np.testing.assert_allclose(x @ w, y, rtol=1e-4, atol=1e-5)
    assert abs(prompts.x.std() - 1) < 0.1
    assert len(np.unique(prompts.weights[:, 0])) == 50


def test_noise_has_the_deviation_asked_for() -> None:
    prompts = generate(np.random.default_rng(0), 2_000, replace(TINY, noise_std=0.5))
    noise = prompts.y - np.einsum("rpd,rd->rp", prompts.x, prompts.weights)
    assert noise.std() == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize(("k", "d"), [(1, 3), (2, 3), (3, 3), (7, 3)])
@pytest.mark.parametrize("penalty", [0.0, 0.7])
def test_ridge_is_the_least_squares_fit_with_the_penalty_as_further_rows(k: int, d: int, penalty: float) -> None:
    rng = np.random.default_rng(k)
    x, y = rng.normal(size=(4, k, d)), rng.normal(size=(4, k))
    for row, found in enumerate(ridge_weights(x, y, penalty)):
        rows = np.concatenate([x[row], penalty**0.5 * np.eye(d)])
        expected = np.linalg.lstsq(rows, np.concatenate([y[row], np.zeros(d)]), rcond=None)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("noise_std", [0.0, 1.0])
def test_one_step_has_the_error_that_theory_says_and_no_other_rate_less(noise_std: float) -> None:
    d, k = 3, 5
    chosen = replace(TINY, noise_std=noise_std, points=k + 1)
    prompts = generate(np.random.default_rng(0), 40_000, chosen)
    x, y = prompts.x.astype(float), prompts.y.astype(float)
    step = one_step_weights(x[:, :k], y[:, :k], noise_std)
    answers = np.einsum("rd,rd->r", x[:, k], step)
    errors = [float(np.mean((factor * answers - y[:, k]) ** 2)) for factor in (0.85, 1.0, 1.15)]
    assert errors[1] == pytest.approx(d * (1 - k / (k + d + 1 + noise_std**2)) + noise_std**2, rel=0.03)
    assert errors[1] < min(errors[0], errors[2])


def test_no_reference_beats_ridge_where_there_is_noise() -> None:
    prompts = generate(np.random.default_rng(0), 4_000, replace(TINY, noise_std=1.0))
    errors = {name: float(np.mean((y - prompts.y) ** 2)) for name, y in references(prompts, 1.0).items()}
    assert min(errors, key=lambda name: errors[name]) == "ridge"
    assert set(errors) == set(REFERENCES)


def test_a_model_that_fits_least_squares_has_the_error_of_the_reference(
    sources: Sources, vector_model: VectorModel
) -> None:
    found = measured(vector_model(least_squares), sources)
    for name in ("squared_error", "squared_error_after{'examples': 2}", "squared_error_after{'examples': 5}"):
        assert found[name].value == pytest.approx(found[f"least_squares_{name}"].value, abs=1e-6)
    after_dimension = found["squared_error_after{'examples': 4}"]
    assert after_dimension.value == pytest.approx(0, abs=1e-6)
    assert after_dimension.n == 40
    assert found["squared_error"].higher_is_better is False
    assert found["ridge_squared_error"].higher_is_better is None


def test_answering_zero_costs_about_one(sources: Sources, vector_model: VectorModel) -> None:
    chosen = replace(TINY, test_samples=500)
    found = measured(vector_model(lambda vectors: 0 * vectors[..., :1]), sources, chosen)
    assert found["squared_error"].value == pytest.approx(found["zero_squared_error"].value)
    assert found["squared_error"].stderr is not None
    assert found["squared_error"].value == pytest.approx(1, abs=4 * found["squared_error"].stderr)


def test_targets_stand_at_inputs_and_nowhere_else() -> None:
    prompts = generate_splits(TINY)["train"]
    examples = to_examples(prompts)
    assert examples.inputs.shape == (20, 11, 3)
    assert (examples.targets[:, ::2] == prompts.y).all()
    assert np.isnan(examples.targets[:, 1::2]).all()
    assert (examples.inputs[:, 1::2, 0] == prompts.y[:, :-1]).all()


def test_splits_are_disjoint_and_a_limit_keeps_the_first_rows(sources: Sources) -> None:
    found = generate_splits(TINY)
    assert len({w.tobytes() for split in found.values() for w in split.weights}) == 70
    data = ICL_REGRESSION.load(as_settings(TINY), sources, limit=3)
    assert (data.test.y == found["test"].y[:3]).all()
    assert (data.shape.context_length, data.shape.input_dim, data.shape.vocab_size) == (11, 3, None)
    assert data.shape.is_regression


def test_the_fingerprint_follows_the_data(sources: Sources) -> None:
    found = [ICL_REGRESSION.identify(as_settings(replace(TINY, data_seed=seed)), sources) for seed in (0, 0, 1)]
    assert found[0].fingerprint == found[1].fingerprint != found[2].fingerprint


@pytest.mark.parametrize("wrong", [{"dimension": 0}, {"points": 1}, {"noise_std": -1.0}])
def test_impossible_settings_are_refused(wrong: dict[str, Any], sources: Sources) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*; allowed: "):
        ICL_REGRESSION.identify(wrong, sources)

"""Linear regression in context: from pairs (x, y) of one linear function, predict the y of the next x.

A prompt is `x1 y1 x2 y2 ... xk` with `x ~ N(0, I_d)` and `y = w x + noise`, where each prompt has its own
`w ~ N(0, I_d)`. The model reads vectors of d numbers (y is the first number of its vector, the others are zero) through
a linear layer, and gives one number at each position. The loss is the squared error at every x. Errors are divided by
d, so that answering 0 costs 1.

Source: Garg et al., What Can Transformers Learn In-Context? (arXiv 2208.01066) and their published settings: d = 20, 41
pairs, no noise, GPT-2 with 12 layers, 8 heads and width 256, Adam at 1e-4 over 500,000 batches of 64. We differ: they
draw every prompt anew and let d and k grow over the first steps; we train on a fixed set of prompts, without
curriculum. The reference of one gradient step is von Oswald et al. (arXiv 2212.07677), here at the best possible rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...adapters.base import Adapter, Examples, ModelShape
from ...results.record import Metric
from ..base import INPUT, Row
from ..heavy import NDArray, np
from ..settings import check_ranges
from .answers import doubling, in_batches, interleaved_vectors, vector_examples
from .generated import Columns, GeneratedRows, GeneratedSettings, GeneratedTask, draw_alike, gpt, scale


@dataclass(frozen=True)
class RegressionSettings(GeneratedSettings):
    """How the prompts are made.

    Attributes:
        dimension: d, the length of x.
        points: Pairs of a prompt; the model is asked for the last y, which the prompt does not show.
        noise_std: Standard deviation of the noise on y.
        train_samples: Training prompts.

    Raises:
        ValueError: A number is outside its range.
    """

    dimension: int = 20
    points: int = 41
    noise_std: float = 0.0
    train_samples: int = 100_000
    validation_samples: int = 1_280
    test_samples: int = 1_280
    batch_size: int = 128

    def __post_init__(self) -> None:
        check_ranges(self, {"dimension": (1, None), "points": (2, None), "noise_std": (0, None)})


@dataclass(frozen=True)
class RegressionPrompts(GeneratedRows):
    """Prompts of one split.

    Attributes:
        weights: w of each prompt, `[rows, d]`.
        x: Inputs, `[rows, points, d]`.
        y: Outputs, `[rows, points]`.
    """

    weights: NDArray[np.float32]
    x: NDArray[np.float32]
    y: NDArray[np.float32]


def generate_splits(settings: RegressionSettings) -> dict[str, RegressionPrompts]:
    """Train, validation and test prompts; no function is in two of them."""
    return draw_alike(generate, settings, lambda split: split.weights)


def generate(rng: np.random.Generator, rows: int, settings: RegressionSettings) -> RegressionPrompts:
    """Prompts, each with its own function."""
    weights = rng.standard_normal((rows, settings.dimension), np.float32)
    x = rng.standard_normal((rows, settings.points, settings.dimension), np.float32)
    y = np.einsum("rpd,rd->rp", x, weights)
    if settings.noise_std:
        y += np.float32(settings.noise_std) * rng.standard_normal(y.shape, np.float32)
    return RegressionPrompts(weights, x, y)


def to_examples(prompts: RegressionPrompts) -> Examples:
    """Vectors `[rows, 2 points - 1, d]`, and y as the target at each x."""
    return vector_examples(interleaved_vectors(prompts.x, prompts.y), prompts.y, math.nan)


def references(prompts: RegressionPrompts, noise_std: float) -> dict[str, NDArray[np.float64]]:
    """The answers `[rows, points]` of each of `REFERENCES` to every x, given the pairs before it."""
    x, y = prompts.x.astype(np.float64), prompts.y.astype(np.float64)
    answers = {name: np.zeros_like(y) for name in REFERENCES}
    for k in range(1, x.shape[1]):
        seen, answer, asked = x[:, :k], y[:, :k], x[:, k]
        weights = {
            "least_squares": ridge_weights(seen, answer, 0.0),
            "ridge": ridge_weights(seen, answer, noise_std**2),
            "gradient_step": one_step_weights(seen, answer, noise_std),
        }
        for name, w in weights.items():
            answers[name][:, k] = np.einsum("rd,rd->r", asked, w)
    return answers


REFERENCES = ("least_squares", "ridge", "gradient_step", "zero")
"""References that a model is compared with; `zero` always answers 0."""


def ridge_weights(x: NDArray[np.float64], y: NDArray[np.float64], penalty: float) -> NDArray[np.float64]:
    """Weights `[rows, d]` of ridge regression on `x` `[rows, k, d]` and `y` `[rows, k]`; of least norm at penalty 0."""
    _, k, d = x.shape
    transposed = x.swapaxes(1, 2)
    if k < d:  # the k x k products of the inputs have full rank
        dual = np.linalg.solve(x @ transposed + penalty * np.eye(k), y[..., None])
        return np.asarray((transposed @ dual)[..., 0], np.float64)
    primal = np.linalg.solve(transposed @ x + penalty * np.eye(d), transposed @ y[..., None])
    return np.asarray(primal[..., 0], np.float64)


def one_step_weights(x: NDArray[np.float64], y: NDArray[np.float64], noise_std: float) -> NDArray[np.float64]:
    """Weights `[rows, d]` after one step of gradient descent from 0 on half the summed squared error.

    The rate `1 / (k + d + 1 + noise_std ** 2)` has the least expected error over `w ~ N(0, I)` and `x ~ N(0, I)`.
    With rate a and `S` the sum of `x x^T`, that error is `E |w - a S w|^2 + a^2 noise_std^2 E tr S`, where
    `E tr S = k d` and `E tr S^2 = k d (k + d + 1)`.
    """
    _, k, d = x.shape
    return np.asarray(np.einsum("rkd,rk->rd", x, y) / (k + d + 1 + noise_std**2))


def answer(adapter: Adapter, prompts: RegressionPrompts, settings: RegressionSettings) -> Columns:
    """Squared errors at each x, divided by d, of the model and of each reference."""
    vectors = interleaved_vectors(prompts.x, prompts.y)
    outputs = in_batches(adapter, adapter.sequence_outputs, vectors, settings.batch_size)
    predictions: dict[str, NDArray[Any]] = {"model": outputs[:, ::2, 0], **references(prompts, settings.noise_std)}
    errors = {name: (y - prompts.y) ** 2 / settings.dimension for name, y in predictions.items()}
    prompt = [{"x": x.tolist(), "y": y.tolist()} for x, y in zip(prompts.x, prompts.y, strict=True)]
    return {**errors, INPUT: prompt}


def measure(rows: Sequence[Row]) -> list[Metric]:
    """Mean squared error divided by d: over all x after the first, and after a number of examples (`..._after`).

    The references have the same metrics: `least_squares` (of least norm), `ridge` (the posterior mean, which no other
    answer beats on average), `gradient_step`, and `zero`, which answers 0.
    """
    metrics, last = [], len(rows[0]["model"]) - 1
    for model in ("model", *REFERENCES):
        name, better = ("squared_error", False) if model == "model" else (f"{model}_squared_error", None)
        after = {k: [row[model][k] for row in rows] for k in doubling(last)}
        metrics.append(_mean(name, [sum(row[model][1:]) / last for row in rows], better, {}))
        metrics += [_mean(f"{name}_after", errors, better, {"examples": k}) for k, errors in after.items()]
    return metrics


def _mean(name: str, errors: Sequence[float], higher_is_better: bool | None, at: Mapping[str, int]) -> Metric:
    from ...results.stats.statistics import mean_stderr

    return Metric(name, sum(errors) / len(errors), "1", higher_is_better, mean_stderr(errors), len(errors), at)


_SMOKE = RegressionSettings(dimension=2, points=8, train_samples=10_000, validation_samples=200, test_samples=200)
_SMALL = RegressionSettings(dimension=5, points=16, train_samples=100_000, validation_samples=1_000, test_samples=1_000)

ICL_REGRESSION = GeneratedTask(
    name="icl_regression",
    summary="linear regression in context, beside least squares and one gradient step (squared error)",
    citation="Garg et al., What Can Transformers Learn In-Context?, arXiv 2208.01066",
    train={"beta2": 0.999, "weight_decay": 0.0, "batch_size": 64},
    scales={
        "smoke": scale(_SMOKE, {"lr": 3e-3, "steps": 200}),
        "small": scale(_SMALL, {"lr": 1e-3, "steps": 3_000, "eval_every": 500}, gpt(layers=4, heads=4, width=64)),
        "paper": scale(
            RegressionSettings(),
            {"lr": 1e-4, "warmup": 0.0, "final_lr": 1.0, "steps": 500_000, "eval_every": 10_000},
            gpt(layers=12, heads=8, width=256),
        ),
    },
    main_metric="squared_error",
    settings=RegressionSettings,
    shape=lambda chosen: ModelShape(2 * chosen.points - 1, input_dim=chosen.dimension),
    generate_splits=generate_splits,
    to_examples=lambda split, _: to_examples(split),
    answer=answer,
    measure=lambda rows, _: measure(rows),
    details=("noise_std",),
)

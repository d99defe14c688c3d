"""Linear regression in context: from pairs (x, y) of one linear function, predict the y of the next x.

A prompt is `x1 y1 x2 y2 ... xk` with `x ~ N(0, I_d)` and `y = w x + noise`, where each prompt has a `w ~ N(0, I_d)` of
its own. The model reads vectors of d numbers (y stands in the first, zeros after it) through a linear layer, and gives
one number at each position; the loss is the squared error at every x. Errors are divided by d: answering 0 costs 1.

Source: Garg et al., What Can Transformers Learn In-Context? (arXiv 2208.01066) and their published settings: d = 20, 41
pairs, no noise, GPT-2 with 12 layers, 8 heads and width 256, Adam at 1e-4 over 500,000 batches of 64. We differ: they
draw every prompt anew and let d and k grow over the first steps; we train on a fixed set of prompts, without
curriculum. One step of gradient descent as a reference is von Oswald et al. (arXiv 2212.07677); its rate here is the
best there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ...adapters.base import Adapter, Capability, Examples, ModelShape, Settings
from ...results.record import DataIdentity, Metric
from ..base import INPUT, Row, Sources, TaskData, TaskInfo, TaskScale
from ..settings import as_settings, parse_settings
from .generated import (
    doubling,
    draw_splits,
    generated_data,
    identity_of,
    interleaved_vectors,
    sequence_outputs,
    whole_splits,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GENERATOR_VERSION = "1"


@dataclass(frozen=True)
class RegressionSettings:
    """How the prompts are made.

    Attributes:
        dimension: d, the numbers in x.
        points: Pairs of a prompt; the y of the last one is asked for and not shown.
        noise_std: Standard deviation of the noise on y.
        train_samples: Training prompts.
        validation_samples: Prompts for early stopping.
        test_samples: Test prompts.
        data_seed: Seed of the data; a run's own seed moves initialisation and order, not the data.
        batch_size: Prompts per forward pass when predicting.

    Raises:
        ValueError: A number outside its range.
    """

    dimension: int = 20
    points: int = 41
    noise_std: float = 0.0
    train_samples: int = 100_000
    validation_samples: int = 1_280
    test_samples: int = 1_280
    data_seed: int = 0
    batch_size: int = 128

    def __post_init__(self) -> None:
        for name, least in (("dimension", 1), ("points", 2), ("noise_std", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: {least} or more")


@dataclass(frozen=True)
class RegressionPrompts:
    """Prompts of one split.

    Attributes:
        weights: w of each prompt, `[rows, d]`.
        x: Inputs, `[rows, points, d]`.
        y: Outputs, `[rows, points]`.
    """

    weights: NDArray[np.float32]
    x: NDArray[np.float32]
    y: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class IclRegression:
    """The task; see the module's docstring."""

    info: TaskInfo

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:  # noqa: ARG002
        """The generator, and a hash of the prompts that it makes."""
        return _identity(parse_settings(RegressionSettings, settings))

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:  # noqa: ARG002
        """Generates the data; `test` is a `RegressionPrompts`."""
        chosen = parse_settings(RegressionSettings, settings)
        splits = generate_splits(chosen)
        shape = ModelShape(context_length=2 * chosen.points - 1, input_dim=chosen.dimension)
        return generated_data(shape, splits, to_examples, limit)

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """Squared errors over d at each x, of the model and of each reference; a row per prompt."""
        chosen = parse_settings(RegressionSettings, settings)
        test: RegressionPrompts = data.test
        outputs = sequence_outputs(adapter, interleaved_vectors(test.x, test.y), chosen.batch_size)
        predictions: dict[str, NDArray[Any]] = {"model": outputs[:, ::2, 0], **references(test, chosen.noise_std)}
        errors = {name: (y - test.y) ** 2 / chosen.dimension for name, y in predictions.items()}
        return [
            {
                "sample": i,
                **{name: error[i].tolist() for name, error in errors.items()},
                INPUT: {"x": test.x[i].tolist(), "y": test.y[i].tolist()},
            }
            for i in range(len(test))
        ]

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        """Mean squared error over d: over all x after the first, and after so many examples (`..._after`).

        References beside it: `least_squares` (of least norm), `ridge` (the posterior mean, which no other answer beats
        on average), `gradient_step`, and `zero`, which answers 0.
        """
        del settings
        last = len(rows[0]["model"]) - 1
        metrics = []
        for name, prefix in {"model": "", **{name: f"{name}_" for name in REFERENCES}}.items():
            higher_is_better = False if name == "model" else None
            means = [sum(row[name][1:]) / last for row in rows]
            metrics.append(_error(f"{prefix}squared_error", means, higher_is_better, {}))
            for examples in doubling(last):
                at = {"examples": examples}
                errors = [row[name][examples] for row in rows]
                metrics.append(_error(f"{prefix}squared_error_after", errors, higher_is_better, at))
        return metrics


def _error(name: str, values: Sequence[float], higher_is_better: bool | None, at: Mapping[str, int]) -> Metric:
    from ...results.stats.statistics import mean_stderr

    return Metric(name, sum(values) / len(values), "1", higher_is_better, mean_stderr(values), len(values), at)


@lru_cache(maxsize=4)  # a plan asks once for each model
def _identity(settings: RegressionSettings) -> DataIdentity:
    details = {"data_seed": settings.data_seed, "noise_std": settings.noise_std}
    return identity_of("icl_regression", GENERATOR_VERSION, generate_splits(settings), details)


def generate_splits(settings: RegressionSettings) -> dict[str, RegressionPrompts]:
    """Train, validation and test prompts; no function is in two of them."""
    parts = whole_splits(lambda rng, rows: generate(rng, rows, settings), settings)
    return draw_splits(parts, settings.data_seed, lambda split: split.weights)


def generate(rng: np.random.Generator, rows: int, settings: RegressionSettings) -> RegressionPrompts:
    """Prompts, each of a function of its own."""
    import numpy as np

    weights = rng.standard_normal((rows, settings.dimension), np.float32)
    x = rng.standard_normal((rows, settings.points, settings.dimension), np.float32)
    y = np.einsum("rpd,rd->rp", x, weights)
    if settings.noise_std:
        y += np.float32(settings.noise_std) * rng.standard_normal(y.shape, np.float32)
    return RegressionPrompts(weights, x, y)


def to_examples(prompts: RegressionPrompts) -> Examples:
    """Vectors `[rows, 2 points - 1, d]`, and y as the target at each x."""
    import numpy as np

    inputs = interleaved_vectors(prompts.x, prompts.y)
    targets = np.full(inputs.shape[:2], np.nan, np.float32)
    targets[:, ::2] = prompts.y
    return Examples(inputs, targets)


def references(prompts: RegressionPrompts, noise_std: float) -> dict[str, NDArray[np.float64]]:
    """Answers `[rows, points]` of each of `REFERENCES` to every x, from the pairs before it."""
    import numpy as np

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
"""What a model is held against: `zero` answers 0 always."""


def ridge_weights(x: NDArray[np.float64], y: NDArray[np.float64], penalty: float) -> NDArray[np.float64]:
    """Weights `[rows, d]` of ridge regression on `x` `[rows, k, d]` and `y` `[rows, k]`; of least norm at penalty 0."""
    import numpy as np

    _, k, d = x.shape
    transposed = x.swapaxes(1, 2)
    if k < d:  # by way of the k x k products of the inputs, which have full rank
        dual = np.linalg.solve(x @ transposed + penalty * np.eye(k), y[..., None])
        return np.asarray((transposed @ dual)[..., 0], np.float64)
    primal = np.linalg.solve(transposed @ x + penalty * np.eye(d), transposed @ y[..., None])
    return np.asarray(primal[..., 0], np.float64)


def one_step_weights(x: NDArray[np.float64], y: NDArray[np.float64], noise_std: float) -> NDArray[np.float64]:
    """Weights `[rows, d]` after one step of gradient descent from 0 on half the summed squared error.

    The rate has the least expected error over `w ~ N(0, I)` and `x ~ N(0, I)`: `1 / (k + d + 1 + noise_std ** 2)`.
    With rate a and `S` the sum of `x x^T`, that error is `E |w - a S w|^2 + a^2 noise_std^2 E tr S`, where
    `E tr S = k d` and `E tr S^2 = k d (k + d + 1)`.
    """
    import numpy as np

    _, k, d = x.shape
    return np.asarray(np.einsum("rkd,rk->rd", x, y) / (k + d + 1 + noise_std**2))


_ADAM: Settings = {"beta2": 0.999, "weight_decay": 0.0, "batch_size": 64}

ICL_REGRESSION = IclRegression(
    info=TaskInfo(
        name="icl_regression",
        version=1,
        summary="Synthetic: linear regression in context, beside least squares and one gradient step (squared error)",
        main_metric="squared_error",
        data=("generated",),
        licence="Apache-2.0",
        citation="Garg et al., What Can Transformers Learn In-Context?, arXiv 2208.01066",
        needs=frozenset({Capability.VECTOR_SEQUENCES}),
        recipes=("scratch",),
        scales={
            "smoke": TaskScale(
                settings=as_settings(
                    RegressionSettings(
                        dimension=2, points=8, train_samples=10_000, validation_samples=200, test_samples=200
                    )
                ),
                train={**_ADAM, "lr": 3e-3, "steps": 200},
            ),
            "small": TaskScale(
                settings=as_settings(
                    RegressionSettings(
                        dimension=5, points=16, train_samples=100_000, validation_samples=1_000, test_samples=1_000
                    )
                ),
                train={**_ADAM, "lr": 1e-3, "steps": 3_000, "eval_every": 500},
                backbone={"layers": 4, "heads": 4, "kv_heads": 4, "width": 64, "mlp_width": 256},
            ),
            "paper": TaskScale(
                settings=as_settings(RegressionSettings()),
                train={**_ADAM, "lr": 1e-4, "warmup": 0.0, "final_lr": 1.0, "steps": 500_000, "eval_every": 10_000},
                backbone={"layers": 12, "heads": 8, "kv_heads": 8, "width": 256, "mlp_width": 1024},
            ),
        },
    )
)

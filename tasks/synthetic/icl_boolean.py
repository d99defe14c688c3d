"""Boolean functions in context: from labelled points of one unknown function, give the label of the next point.

A prompt is `x1 y1 x2 y2 ... xk` with `x` in {-1, 1}^n and labels of one function, drawn anew for each prompt. The model
reads vectors of n numbers (a label stands in the first as -1 or 1, zeros after it) through a linear layer, and gives
logits over the two labels at each position; the loss is the cross-entropy at every x.

`icl_boolean` has conjunctions: each variable is in it with probability 0.15, negated with 0.15; x is uniform, but 30%
of the points are made to satisfy the function, as few would otherwise. `icl_parity` has sparse parities: the exclusive
or of 2 of n variables, x uniform.

Source: Bhattamishra et al. (arXiv 2310.03016) and their published code: 6 layers, 8 heads, width 256, Adam at 1e-4 over
20,000 batches of 32; conjunctions over 28 variables, sparse parities over 10. Points of a prompt, 70 and 140, are
recollections of the paper. We differ: they draw every prompt anew, we train on a fixed set of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from ...adapters.base import IGNORED, Adapter, Capability, Examples, ModelShape, Settings
from ...results.record import DataIdentity, Metric, Scalar
from ..base import INPUT, Row, Sources, TaskData, TaskInfo, TaskScale
from ..settings import as_settings, parse_settings
from .generated import (
    doubling,
    draw_splits,
    generated_data,
    identity_of,
    interleaved_vectors,
    sequence_outputs,
    share,
    whole_splits,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GENERATOR_VERSION = "1"
FUNCTIONS = ("conjunction", "parity")
LITERAL_SHARE = 0.3
SATISFIED_SHARE = 0.3


@dataclass(frozen=True)
class BooleanSettings:
    """How the prompts are made.

    Attributes:
        function: `conjunction` or `parity`.
        variables: n, the numbers in x.
        parity_of: Variables that a parity depends on.
        points: Points of a prompt; the label of the last one is asked for and not shown.
        last_points: Points at a prompt's end over which the headline accuracy is taken.
        train_samples: Training prompts.
        validation_samples: Prompts for early stopping.
        test_samples: Test prompts.
        data_seed: Seed of the data; a run's own seed moves initialisation and order, not the data.
        batch_size: Prompts per forward pass when predicting.

    Raises:
        ValueError: An unknown function, or a number outside its range.
    """

    function: str = "conjunction"
    variables: int = 28
    parity_of: int = 2
    points: int = 70
    last_points: int = 10
    train_samples: int = 60_000
    validation_samples: int = 1_000
    test_samples: int = 1_280
    data_seed: int = 0
    batch_size: int = 128

    def __post_init__(self) -> None:
        if self.function not in FUNCTIONS:
            raise ValueError(f"function is {self.function!r}; choose {' or '.join(map(repr, FUNCTIONS))}")
        for name, most in (("parity_of", self.variables), ("last_points", self.points - 1)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 1 to {most}")


@dataclass(frozen=True)
class BooleanPrompts:
    """Prompts of one split.

    Attributes:
        weights: The function, `[rows, n]`: 1 for a variable in it, -1 for a negated one, 0 for one that is not.
        x: Points in {-1, 1}, `[rows, points, n]`.
        labels: True or false, `[rows, points]`.
    """

    weights: NDArray[np.int8]
    x: NDArray[np.int8]
    labels: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class IclBoolean:
    """The task; see the module's docstring."""

    info: TaskInfo

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:  # noqa: ARG002
        """The generator, and a hash of the prompts that it makes."""
        return _identity(self.info.name, parse_settings(BooleanSettings, settings))

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:  # noqa: ARG002
        """Generates the data; `test` is a `BooleanPrompts`."""
        chosen = parse_settings(BooleanSettings, settings)
        splits = generate_splits(chosen)
        shape = ModelShape(context_length=2 * chosen.points - 1, vocab_size=2, input_dim=chosen.variables)
        return generated_data(shape, splits, to_examples, limit)

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """Whether each label is right, of the model and of the nearest point before; a row per prompt."""
        chosen = parse_settings(BooleanSettings, settings)
        test: BooleanPrompts = data.test
        outputs = sequence_outputs(adapter, to_vectors(test), chosen.batch_size)
        model = outputs[:, ::2].argmax(-1) == test.labels
        nearest = nearest_labels(test) == test.labels
        return [
            {
                "sample": i,
                "labels": test.labels[i].astype(int).tolist(),
                "model": model[i].astype(int).tolist(),
                "nearest": nearest[i].astype(int).tolist(),
                INPUT: test.x[i].tolist(),
            }
            for i in range(len(test))
        ]

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        """Accuracy over the last points, and after so many examples (`accuracy_after`).

        Beside it, over the last points: `nearest_neighbour_accuracy`, the label of the nearest point before, and
        `constant_accuracy`, the better of always true and always false.
        """
        last = parse_settings(BooleanSettings, settings).last_points
        of = [last] * len(rows)
        points = len(rows[0]["labels"])
        curve = [
            share("accuracy_after", [row["model"][k] for row in rows], [1] * len(rows), True, {"examples": k})
            for k in doubling(points - 1)
        ]
        true = share("constant_accuracy", [sum(row["labels"][-last:]) for row in rows], of, None)
        false = share("constant_accuracy", [last - sum(row["labels"][-last:]) for row in rows], of, None)
        return [
            share("accuracy", [sum(row["model"][-last:]) for row in rows], of, True),
            *curve,
            share("nearest_neighbour_accuracy", [sum(row["nearest"][-last:]) for row in rows], of, None),
            max(true, false, key=lambda metric: metric.value or 0.0),
        ]


@lru_cache(maxsize=4)  # a plan asks once for each model
def _identity(name: str, settings: BooleanSettings) -> DataIdentity:
    details: dict[str, Scalar] = {"data_seed": settings.data_seed, "function": settings.function}
    return identity_of(name, GENERATOR_VERSION, generate_splits(settings), details)


def generate_splits(settings: BooleanSettings) -> dict[str, BooleanPrompts]:
    """Train, validation and test prompts; none is in two of them, though a function may be, as parities are few."""
    parts = whole_splits(lambda rng, rows: generate(rng, rows, settings), settings)
    return draw_splits(parts, settings.data_seed, lambda split: split.x)


def generate(rng: np.random.Generator, rows: int, settings: BooleanSettings) -> BooleanPrompts:
    """Prompts, each of a function drawn for it."""
    import numpy as np

    n, points = settings.variables, settings.points
    x = 2 * rng.integers(2, size=(rows, points, n), dtype=np.int8) - np.int8(1)
    if settings.function == "parity":
        chosen = rng.random((rows, n)).argsort(axis=1)[:, : settings.parity_of]
        weights = np.zeros((rows, n), np.int8)
        np.put_along_axis(weights, chosen, 1, axis=1)
    else:
        share_of = [LITERAL_SHARE / 2, 1 - LITERAL_SHARE, LITERAL_SHARE / 2]
        weights = rng.choice(np.array([-1, 0, 1], np.int8), size=(rows, n), p=share_of)
        satisfied = (rng.random((rows, points)) < SATISFIED_SHARE)[..., None] & (weights != 0)[:, None]
        x = np.where(satisfied, weights[:, None], x)
    return BooleanPrompts(weights, x, label(settings.function, weights, x))


def label(function: str, weights: NDArray[np.int8], x: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Labels `[rows, points]` of points by the functions that `weights` `[rows, n]` describe.

    A conjunction is true where no variable in it is wrong, a parity where an odd number of its variables are 1.
    """
    import numpy as np

    if function == "parity":
        return np.asarray(((x == 1) & (weights != 0)[:, None]).sum(-1) % 2 == 1)
    return np.asarray(~((x != weights[:, None]) & (weights != 0)[:, None]).any(-1))


def to_vectors(prompts: BooleanPrompts) -> NDArray[np.float32]:
    """Vectors `[rows, 2 points - 1, n]`, labels as -1 and 1."""
    return interleaved_vectors(prompts.x, 2.0 * prompts.labels - 1)


def to_examples(prompts: BooleanPrompts) -> Examples:
    """Vectors, and the label 0 or 1 as the target at each x."""
    import numpy as np

    inputs = to_vectors(prompts)
    targets = np.full(inputs.shape[:2], IGNORED, np.int32)
    targets[:, ::2] = prompts.labels
    return Examples(inputs, targets)


def nearest_labels(prompts: BooleanPrompts) -> NDArray[np.bool_]:
    """The label of the nearest earlier point of each point `[rows, points]`, the first of equals; false without one."""
    import numpy as np

    x = prompts.x.astype(np.float32)
    alike = x @ x.swapaxes(1, 2)  # of vectors of one length the nearest has the largest product
    points = x.shape[1]
    alike[:, np.triu(np.ones((points, points), bool))] = -np.inf
    labels = np.take_along_axis(prompts.labels, alike.argmax(-1), axis=1)
    labels[:, 0] = False
    return labels


_CITATION = (
    "Bhattamishra et al., Understanding In-Context Learning in Transformers and LLMs by Learning to Learn Discrete "
    "Functions, arXiv 2310.03016"
)
_ADAM: Settings = {"beta2": 0.999, "weight_decay": 0.0, "final_lr": 1.0}
_PAPER_TRAIN: Settings = {**_ADAM, "lr": 1e-4, "warmup": 0.0, "steps": 20_000, "batch_size": 32, "eval_every": 1_000}
_PAPER_SIZE: Settings = {"layers": 6, "heads": 8, "kv_heads": 8, "width": 256, "mlp_width": 1024}


def _task(
    name: str, summary: str, smoke: BooleanSettings, small: BooleanSettings, paper: BooleanSettings
) -> IclBoolean:
    return IclBoolean(
        TaskInfo(
            name=name,
            version=1,
            summary=summary,
            main_metric="accuracy",
            data=("generated",),
            licence="Apache-2.0",
            citation=_CITATION,
            needs=frozenset({Capability.VECTOR_SEQUENCES}),
            recipes=("scratch",),
            scales={
                "smoke": TaskScale(as_settings(smoke), train={**_ADAM, "lr": 2e-3, "steps": 200, "batch_size": 32}),
                "small": TaskScale(
                    as_settings(small),
                    train={**_ADAM, "lr": 5e-4, "steps": 3_000, "batch_size": 32, "eval_every": 500},
                    backbone={"layers": 3, "heads": 4, "kv_heads": 4, "width": 64, "mlp_width": 256},
                ),
                "paper": TaskScale(as_settings(paper), train=_PAPER_TRAIN, backbone=_PAPER_SIZE),
            },
        )
    )


_PAPER = BooleanSettings()
_SMALL = replace(_PAPER, variables=10, points=40, train_samples=50_000, validation_samples=500, test_samples=500)
_SMOKE = replace(
    _SMALL, variables=5, points=16, last_points=4, train_samples=6_000, validation_samples=200, test_samples=200
)

ICL_BOOLEAN = _task(
    "icl_boolean",
    "Synthetic: label points by an unknown conjunction, from labelled points before (accuracy)",
    _SMOKE,
    _SMALL,
    _PAPER,
)
ICL_PARITY = _task(
    "icl_parity",
    "Synthetic: label points by an unknown parity of two variables, from labelled points before (accuracy)",
    replace(_SMOKE, function="parity"),
    replace(_SMALL, function="parity", variables=6),
    replace(_PAPER, function="parity", variables=10, points=140),
)

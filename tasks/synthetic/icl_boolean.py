"""Boolean functions in context: from labelled points of one unknown function, give the label of the next point.

A prompt is `x1 y1 x2 y2 ... xk` with `x` in {-1, 1}^n and the labels of one function, drawn anew for each prompt. The
model reads vectors of n numbers (a label is the first number of its vector, -1 or 1, the others are zero) through a
linear layer, and gives logits over the two labels at each position. The loss is the cross-entropy at every x.

`icl_boolean` has conjunctions, which contain each variable with probability 0.15 and its negation with 0.15. Here x is
uniform, but 30% of the points are made to satisfy the function, as few would otherwise. `icl_parity` has sparse
parities: the exclusive or of 2 of n variables, with uniform x.

Source: Bhattamishra et al. (arXiv 2310.03016) and their published code: 6 layers, 8 heads, width 256, Adam at 1e-4 over
20,000 batches of 32; conjunctions over 28 variables, sparse parities over 10. We recall the 70 and 140 points of a
prompt from the paper. We differ: they draw every prompt anew, we train on a fixed set of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...adapters.base import IGNORED, Adapter, Examples, ModelShape
from ...results.record import Metric
from ..base import INPUT, Row
from ..heavy import NDArray, np
from ..settings import check_ranges
from .answers import doubling, in_batches, interleaved_vectors, share, vector_examples
from .generated import Columns, GeneratedRows, GeneratedSettings, GeneratedTask, draw_alike, gpt, scale

FUNCTIONS = ("conjunction", "parity")
LITERAL_SHARE = 0.3
SATISFIED_SHARE = 0.3


@dataclass(frozen=True)
class BooleanSettings(GeneratedSettings):
    """How the prompts are made.

    Attributes:
        function: `conjunction` or `parity`.
        variables: n, the length of x.
        parity_of: Variables that a parity depends on.
        points: Points of a prompt; the model is asked for the last label, which the prompt does not show.
        last_points: Points at a prompt's end over which the headline accuracy is taken.
        train_samples: Training prompts.

    Raises:
        ValueError: The function is unknown, or a number is outside its range.
    """

    function: str = "conjunction"
    variables: int = 28
    parity_of: int = 2
    points: int = 70
    last_points: int = 10
    train_samples: int = 60_000
    test_samples: int = 1_280
    batch_size: int = 128

    def __post_init__(self) -> None:
        if self.function not in FUNCTIONS:
            raise ValueError(f"function is {self.function!r}; choose {' or '.join(map(repr, FUNCTIONS))}")
        check_ranges(self, {"parity_of": (1, self.variables), "last_points": (1, self.points - 1)})


@dataclass(frozen=True)
class BooleanPrompts(GeneratedRows):
    """Prompts of one split.

    Attributes:
        weights: The function, `[rows, n]`: 1 for a variable that it contains, -1 for one that it negates, 0 for others.
        x: Points in {-1, 1}, `[rows, points, n]`.
        labels: True or false, `[rows, points]`.
    """

    weights: NDArray[np.int8]
    x: NDArray[np.int8]
    labels: NDArray[np.bool_]


def generate_splits(settings: BooleanSettings) -> dict[str, BooleanPrompts]:
    """Train, validation and test prompts; no prompt is in two of them. A function may be, as there are few parities."""
    return draw_alike(generate, settings, lambda split: split.x)


def generate(rng: np.random.Generator, rows: int, settings: BooleanSettings) -> BooleanPrompts:
    """Prompts, each with its own function."""
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

    A conjunction is true if none of its variables is wrong, a parity if an odd number of its variables are 1.
    """
    if function == "parity":
        return np.asarray(((x == 1) & (weights != 0)[:, None]).sum(-1) % 2 == 1)
    return np.asarray(~((x != weights[:, None]) & (weights != 0)[:, None]).any(-1))


def to_vectors(prompts: BooleanPrompts) -> NDArray[np.float32]:
    """Vectors `[rows, 2 points - 1, n]`, labels as -1 and 1."""
    return interleaved_vectors(prompts.x, 2.0 * prompts.labels - 1)


def to_examples(prompts: BooleanPrompts) -> Examples:
    """Vectors, and the label 0 or 1 as the target at each x."""
    return vector_examples(to_vectors(prompts), prompts.labels.astype(np.int32), IGNORED)


def nearest_labels(prompts: BooleanPrompts) -> NDArray[np.bool_]:
    """The label of the earlier point nearest to each point, `[rows, points]`; false for the first point.

    Of equally near points the first counts.
    """
    x = prompts.x.astype(np.float32)
    alike = x @ x.swapaxes(1, 2)  # all points have one norm, so the nearest has the largest product
    points = x.shape[1]
    alike[:, np.triu(np.ones((points, points), bool))] = -np.inf
    labels = np.take_along_axis(prompts.labels, alike.argmax(-1), axis=1)
    labels[:, 0] = False
    return labels


def answer(adapter: Adapter, prompts: BooleanPrompts, settings: BooleanSettings) -> Columns:
    """The labels, and whether each answer is right, of the model and of the nearest earlier point."""
    outputs = in_batches(adapter, adapter.sequence_outputs, to_vectors(prompts), settings.batch_size)
    labels = prompts.labels
    return {
        "labels": labels.astype(int),
        "model": (outputs[:, ::2].argmax(-1) == labels).astype(int),
        "nearest": (nearest_labels(prompts) == labels).astype(int),
        INPUT: prompts.x,
    }


def measure(rows: Sequence[Row], settings: BooleanSettings) -> list[Metric]:
    """Accuracy over the last points, and at the point after a number of examples (`accuracy_after`).

    References over the last points: `nearest_neighbour_accuracy` answers with the label of the nearest earlier point,
    and `constant_accuracy` is the better of always true and always false.
    """
    labels, model, nearest = (np.array([row[key] for row in rows]) for key in ("labels", "model", "nearest"))
    one, last = [1] * len(rows), settings.last_points

    def over_last_points(name: str, right: NDArray[np.int64], higher_is_better: bool | None = None) -> Metric:
        return share(name, right[:, -last:].sum(1), [last] * len(rows), higher_is_better)

    constant = [over_last_points("constant_accuracy", right) for right in (labels, 1 - labels)]
    return [
        over_last_points("accuracy", model, True),
        *(share("accuracy_after", model[:, k], one, True, {"examples": k}) for k in doubling(labels.shape[1] - 1)),
        over_last_points("nearest_neighbour_accuracy", nearest),
        max(constant, key=lambda metric: metric.value or 0.0),
    ]


def _task(
    name: str, summary: str, smoke: BooleanSettings, small: BooleanSettings, paper: BooleanSettings
) -> GeneratedTask[BooleanSettings, BooleanPrompts]:
    return GeneratedTask(
        name=name,
        summary=f"label points by an unknown {summary}, from labelled points before (accuracy)",
        citation="Bhattamishra et al., Understanding In-Context Learning in Transformers and LLMs by Learning to Learn "
        "Discrete Functions, arXiv 2310.03016",
        train={"beta2": 0.999, "weight_decay": 0.0, "final_lr": 1.0},
        scales={
            "smoke": scale(smoke, {"lr": 2e-3, "steps": 200, "batch_size": 32}),
            "small": scale(
                small,
                {"lr": 5e-4, "steps": 3_000, "batch_size": 32, "eval_every": 500},
                gpt(layers=3, heads=4, width=64),
            ),
            "paper": scale(
                paper,
                {"lr": 1e-4, "warmup": 0.0, "steps": 20_000, "batch_size": 32, "eval_every": 1_000},
                gpt(layers=6, heads=8, width=256),
            ),
        },
        settings=BooleanSettings,
        shape=lambda chosen: ModelShape(2 * chosen.points - 1, vocab_size=2, input_dim=chosen.variables),
        generate_splits=generate_splits,
        to_examples=lambda split, _: to_examples(split),
        answer=answer,
        measure=measure,
        details=("function",),
    )


_PAPER = BooleanSettings()
_SMALL = replace(_PAPER, variables=10, points=40, train_samples=50_000, validation_samples=500, test_samples=500)
_SMOKE = replace(
    _SMALL, variables=5, points=16, last_points=4, train_samples=6_000, validation_samples=200, test_samples=200
)

ICL_BOOLEAN = _task("icl_boolean", "conjunction", _SMOKE, _SMALL, _PAPER)
ICL_PARITY = _task(
    "icl_parity",
    "parity of two variables",
    replace(_SMOKE, function="parity"),
    replace(_SMALL, function="parity", variables=6),
    replace(_PAPER, function="parity", variables=10, points=140),
)

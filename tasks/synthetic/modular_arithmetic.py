"""Modular arithmetic: the value of an expression such as `3 + 1 * 4 - 2`, modulo 5, at lengths beyond training.

An expression alternates numbers below the modulus with `+`, `-` and `*`; a product binds tighter than a sum. The model
reads the expression and `=`, and must give the value as the next token; the loss is taken on that token alone. A length
counts numbers and operators.

Source: Delétang et al., Neural Networks and the Chomsky Hierarchy (arXiv 2207.02098), the task of the regular level:
modulus 5, training on lengths up to 40 (lengths are odd here, so up to 39), and a score that averages over the lengths
41 to 500. We differ: they draw every expression anew and search positional encodings and learning rates; we train on a
fixed set with rotary positions, and measure some of the longer lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...adapters.base import IGNORED, Adapter, Examples, ModelShape
from ...results.record import Metric
from ..base import INPUT, Row
from ..heavy import NDArray, np
from ..settings import check_ranges
from .answers import mean_over_settings, predicted_by_length, shares_by
from .generated import Columns, Draw, GeneratedRows, GeneratedSettings, GeneratedTask, draw_splits, gpt, scale

OPERATORS = ("+", "-", "*")


@dataclass(frozen=True)
class ArithmeticSettings(GeneratedSettings):
    """How the expressions are made. All lengths are odd.

    Attributes:
        modulus: Numbers are below it, and results are taken modulo it.
        train_length: Longest training expression; training lengths are uniform over the odd ones up to it.
        held_out_length: Length of the shortest validation expressions; there are too few shorter ones to hold any out.
        test_lengths: Lengths of test expressions, some within `train_length` and some beyond it.
        train_samples: Training expressions.
        test_samples: Test expressions of each length.
        more_metrics: Further metrics, from the package `evaluate`, over tokens; see `metrics/requested.py`.

    Raises:
        ValueError: A length is even, or a number is outside its range.
    """

    modulus: int = 5
    train_length: int = 39
    held_out_length: int = 9
    test_lengths: tuple[int, ...] = (9, 19, 29, 39, 41, 51, 61, 81, 101, 151, 201, 301, 401, 499)
    train_samples: int = 1_000_000
    test_samples: int = 500
    batch_size: int = 64
    more_metrics: str = ""

    def __post_init__(self) -> None:
        for length in (self.train_length, self.held_out_length, *self.test_lengths):
            if length % 2 == 0 or length < 1:
                raise ValueError(
                    f"a length is {length}; an expression has an odd number of tokens, such as {length + 1}"
                )
        check_ranges(self, {"modulus": (2, None), "held_out_length": (1, self.train_length)})
        if not min(self.test_lengths) <= self.train_length < max(self.test_lengths):
            raise ValueError(
                f"test_lengths is {self.test_lengths}; train_length {self.train_length} must be in between"
            )

    @property
    def longest(self) -> int:
        """Tokens of the longest expression."""
        return max(self.train_length, *self.test_lengths)

    @property
    def vocab_size(self) -> int:
        """Numbers, operators and `=`."""
        return self.modulus + len(OPERATORS) + 1


@dataclass(frozen=True)
class ArithmeticExpressions(GeneratedRows):
    """Expressions of one split, each followed by `=` and zeros.

    Attributes:
        tokens: Token ids, `[rows, n]` int32: numbers are their own ids, operators and `=` come after them; n is one
            more than the longest length of the split.
        lengths: Numbers and operators of each expression, `[rows]`.
        answers: Values, `[rows]`.
    """

    tokens: NDArray[np.int32]
    lengths: NDArray[np.int32]
    answers: NDArray[np.int32]


def generate_splits(settings: ArithmeticSettings) -> dict[str, ArithmeticExpressions]:
    """Train, validation and test expressions; none is in two of them.

    Test rows take turns between lengths, the longest first, so that any limit keeps some beyond training.
    """
    trained, tested = settings.train_length, settings.longest

    def drawing(shortest: int, longest: int, width: int) -> Draw[ArithmeticExpressions]:
        return lambda rng, rows: generate(rng, rows, (shortest, longest), width + 1, settings)

    parts = {
        "train": [(drawing(1, trained, trained), settings.train_samples)],
        "validation": [(drawing(settings.held_out_length, trained, trained), settings.validation_samples)],
        "test": [(drawing(length, length, tested), settings.test_samples) for length in settings.test_lengths],
    }
    # A longer expression, cut to the width of training expressions, has no `=`, so it equals none of them.
    splits = draw_splits(parts, settings.data_seed, lambda split: split.tokens[:, : trained + 1])
    test = splits["test"]
    turns = np.arange(len(test)) // len(settings.test_lengths)
    return {**splits, "test": test.take(np.lexsort((-test.lengths, turns)))}


def generate(
    rng: np.random.Generator, rows: int, lengths: tuple[int, int], width: int, settings: ArithmeticSettings
) -> ArithmeticExpressions:
    """Expressions, `width` tokens wide, with lengths uniform over the odd ones from `lengths[0]` to `lengths[1]`."""
    most = lengths[1] // 2 + 1
    numbers = rng.integers(lengths[0] // 2 + 1, most + 1, size=rows)  # of each expression
    operands = rng.integers(settings.modulus, size=(rows, most), dtype=np.int32)
    operators = rng.integers(len(OPERATORS), size=(rows, most), dtype=np.int32)
    tokens = np.zeros((rows, width), np.int32)
    tokens[:, 0 : 2 * most : 2] = operands
    tokens[:, 1 : 2 * most - 1 : 2] = settings.modulus + operators[:, :-1]
    ends = (2 * numbers - 1).astype(np.int32)
    tokens[np.arange(width) >= ends[:, None]] = 0
    tokens[np.arange(rows), ends] = settings.vocab_size - 1
    return ArithmeticExpressions(tokens, ends, evaluate(operands, operators, numbers, settings.modulus))


def evaluate(
    operands: NDArray[np.int32], operators: NDArray[np.int32], numbers: NDArray[np.int64], modulus: int
) -> NDArray[np.int32]:
    """Values of expressions, read from the left with a running sum and the product that is still open.

    Args:
        operands: Numbers, `[rows, width]`.
        operators: Index in `OPERATORS` of the operator after each number, `[rows, width]`.
        numbers: How many numbers of each row count, `[rows]`.
        modulus: Results are taken modulo it.
    """
    total, product = np.zeros(len(operands), np.int64), operands[:, 0].astype(np.int64)
    for i in range(1, operands.shape[1]):
        operator, operand = operators[:, i - 1], operands[:, i]
        counts, times = i < numbers, operator == OPERATORS.index("*")
        signed = np.where(operator == OPERATORS.index("-"), -operand, operand)
        total = np.where(counts & ~times, total + product, total)
        product = np.where(counts, np.where(times, product * operand, signed) % modulus, product)
    return ((total + product) % modulus).astype(np.int32)


def to_examples(expressions: ArithmeticExpressions) -> Examples:
    """Expressions with the value as the target of `=`; padding after shorter expressions is masked."""
    targets = np.full_like(expressions.tokens, IGNORED)
    targets[np.arange(len(expressions)), expressions.lengths] = expressions.answers
    mask = np.arange(targets.shape[1]) <= expressions.lengths[:, None]
    return Examples(expressions.tokens, targets, mask)


def answer(adapter: Adapter, expressions: ArithmeticExpressions, settings: ArithmeticSettings) -> Columns:
    """The likeliest token after each `=`, over the whole vocabulary."""
    tokens, lengths = expressions.tokens, expressions.lengths
    guesses = predicted_by_length(adapter, tokens, lengths + 1, settings.batch_size)
    return {
        "length": lengths,
        "answer": expressions.answers,
        "prediction": [int(row[length]) for row, length in zip(guesses, lengths, strict=True)],
        INPUT: [row[: length + 1].tolist() for row, length in zip(tokens, lengths, strict=True)],
    }


def measure(rows: Sequence[Row], settings: ArithmeticSettings) -> list[Metric]:
    """Accuracy at each length (`length_accuracy`), and its means over lengths beyond and within `train_length`.

    `accuracy` is the mean beyond, as in the paper. `in_range_accuracy` is the mean within; it is missing if a limit
    leaves no such length.
    """
    by_length = shares_by(
        "length_accuracy", rows, {"length": "length"}, lambda row: (row["prediction"] == row["answer"], 1)
    )
    means = {
        "accuracy": [metric for (length,), metric in by_length.items() if length > settings.train_length],
        "in_range_accuracy": [metric for (length,), metric in by_length.items() if length <= settings.train_length],
    }
    return [
        *(mean_over_settings(name, metrics) for name, metrics in means.items() if metrics),
        *by_length.values(),
        Metric("chance", 1 / settings.modulus, "1", None, None, len(rows)),
    ]


_SMOKE = ArithmeticSettings(
    train_length=7,
    held_out_length=7,
    test_lengths=(7, 9, 11),
    train_samples=4_000,
    validation_samples=200,
    test_samples=100,
)
_SMALL = ArithmeticSettings(
    train_length=9, held_out_length=7, test_lengths=(7, 9, 11, 13, 17, 21), train_samples=200_000, test_samples=300
)

MODULAR_ARITHMETIC = GeneratedTask(
    name="modular_arithmetic",
    summary="value of an expression modulo 5, at lengths beyond those trained on (accuracy)",
    citation="Delétang et al., Neural Networks and the Chomsky Hierarchy, arXiv 2207.02098",
    train={"weight_decay": 0.0, "beta2": 0.999, "final_lr": 0.1, "length_pool": 8},
    scales={
        "smoke": scale(_SMOKE, {"lr": 2e-3, "steps": 150, "batch_size": 64}, {"rope": True}),
        "small": scale(
            _SMALL,
            {"lr": 1e-3, "steps": 5_000, "batch_size": 128, "eval_every": 500, "target_loss": 0.01},
            gpt(layers=4, heads=4, width=64, rope=True),
        ),
        "paper": scale(
            ArithmeticSettings(),
            {"lr": 1e-4, "final_lr": 1.0, "steps": 1_000_000, "batch_size": 128, "eval_every": 10_000},
            gpt(layers=5, heads=8, width=64, rope=True),
        ),
    },
    settings=ArithmeticSettings,
    shape=lambda chosen: ModelShape(chosen.longest + 1, chosen.vocab_size),
    generate_splits=generate_splits,
    to_examples=lambda split, _: to_examples(split),
    answer=answer,
    measure=measure,
    details=("modulus", "train_length"),
    compared=("answer", "prediction"),
)

"""`lra/listops`: the value of a nested expression of digits, 501 to 1,999 tokens long at `paper` scale.

Expressions are drawn from the published grammar. A node is an operation with probability 1/4, else a digit; a node at
the greatest depth is always a digit. An operation is MIN, MAX, MED (the median, rounded down) or SM (the sum modulo
10), all equally likely, and has 2 to 10 arguments, each number equally likely. An expression is kept if it is new and
its length lies strictly between two bounds. The length counts one token for each operator (`[MAX`), digit and closing
bracket: `[MAX 2 [MIN 3 4 ] 1 ]` has 8.

The trees of many expressions are drawn at once, depth by depth. Their distribution is that of the published generator,
which is recursive and draws its random numbers in another order, so its expressions differ from ours.

Source: Nangia and Bowman, arXiv 1804.06028; probabilities and bounds as in the generator of Long Range Arena
(Tay et al., arXiv 2011.04006).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ...adapters.base import ModelShape
from ..heavy import NDArray, np
from ..settings import check_ranges
from .protocol import GeneratedSequences, SeededSettings, SequenceClassification, lra_info
from .sequences import Sequences

OPERATION_PROBABILITY = 0.25
OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
TOKENS = (*map(str, range(10)), *OPERATORS, "]")
"""Spelling of each token id; the ids of digits are the digits."""

_FIRST_OPERATOR, _END = 10, 14
_TREES_AT_ONCE = 2_000


@dataclass(frozen=True)
class ListOpsSettings(SeededSettings):
    """How expressions are made; the defaults are those of the benchmark.

    Attributes:
        min_length: All expressions have more tokens.
        max_length: All expressions have fewer tokens.
        max_depth: Depth at which every node is a digit; 2 or more.
        max_arguments: Most arguments of an operation; 2 or more.
        train_rows: Training expressions.
        validation_rows: Expressions that select the checkpoint.
        test_rows: Test expressions.

    Raises:
        ValueError: No expression can satisfy the bounds.
    """

    min_length: int = 500
    max_length: int = 2_000
    max_depth: int = 10
    max_arguments: int = 10
    train_rows: int = 96_000
    validation_rows: int = 2_000
    test_rows: int = 2_000
    batch_size: int = 32

    def __post_init__(self) -> None:
        check_ranges(self, dict.fromkeys(("max_depth", "max_arguments"), (2, None)))
        if self.max_length < self.min_length + 2:
            raise ValueError(
                f"max_length is {self.max_length}; it takes at least min_length + 2, {self.min_length + 2} here, "
                "because both bounds are exclusive"
            )


@dataclass(frozen=True)
class _Level:
    """The nodes of one depth; nodes of one tree, and of one parent, are neighbours.

    Attributes:
        parents: Index of each node's parent in the level above.
        symbols: Digit, or id of the operator.
        arguments: Number of arguments; 0 for a digit.
    """

    parents: NDArray[np.int64]
    symbols: NDArray[np.int64]
    arguments: NDArray[np.int64]


@dataclass(frozen=True)
class _Measured:
    """Properties of each node of a level, computed from the levels below.

    Attributes:
        values: Value of the node.
        lengths: Number of its tokens.
    """

    values: NDArray[np.int64]
    lengths: NDArray[np.int64]


def generate_expressions(rng: np.random.Generator, rows: int, settings: ListOpsSettings) -> Sequences:
    """Draws `rows` different expressions, with their values as labels.

    Raises:
        ValueError: (Almost) no expression has a length within the bounds.
    """
    min_length, max_length = settings.min_length, settings.max_length
    kept: dict[bytes, tuple[NDArray[np.uint8], Any, Any]] = {}
    drawn = 0
    while len(kept) < rows:
        levels = _draw(rng, _TREES_AT_ONCE, settings)
        measured = _measure(levels)
        roots = measured[0]
        fitting = np.flatnonzero((roots.lengths > min_length) & (roots.lengths < max_length))
        for tree, row in zip(fitting, _serialise(levels, measured, fitting, max_length), strict=True):
            digest = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
            kept.setdefault(digest, (row, roots.values[tree], roots.lengths[tree]))
        drawn += _TREES_AT_ONCE
        if drawn >= 20 * _TREES_AT_ONCE and not kept:
            raise ValueError(
                f"of {drawn} expressions of depth {settings.max_depth} none has more than {min_length} and fewer than "
                f"{max_length} tokens; widen the bounds, or set max_depth higher (10 is usual)"
            )
    tokens, *known = zip(*islice(kept.values(), rows), strict=True)
    return Sequences(np.stack(tokens), *np.array(known, np.int32))


def _draw(rng: np.random.Generator, trees: int, settings: ListOpsSettings) -> list[_Level]:
    """Trees as levels from the root down; the root is an operation, as a single digit is always too short."""
    levels: list[_Level] = []
    parents = np.arange(trees)
    for depth in range(1, settings.max_depth + 1):
        nodes = len(parents)
        if 1 < depth < settings.max_depth:
            is_operation = rng.random(nodes) <= OPERATION_PROBABILITY
        else:
            is_operation = np.full(nodes, depth == 1)
        operators = _FIRST_OPERATOR + rng.integers(0, len(OPERATORS), nodes)
        arguments = np.where(is_operation, rng.integers(2, settings.max_arguments + 1, nodes), 0)
        levels.append(_Level(parents, np.where(is_operation, operators, rng.integers(0, 10, nodes)), arguments))
        parents = np.repeat(np.arange(nodes), arguments)
    return levels


def _measure(levels: Sequence[_Level]) -> list[_Measured]:
    """Values and lengths of the nodes of each level, computed from the bottom up."""
    measured: list[_Measured] = []
    for level in reversed(levels):
        operations = np.flatnonzero(level.arguments)
        values, lengths = level.symbols.copy(), np.ones_like(level.symbols)
        if len(operations):
            below, counts = measured[-1], level.arguments[operations]
            starts = np.cumsum(counts) - counts
            values[operations] = _apply(level.symbols[operations], counts, starts, below.values)
            lengths[operations] = 2 + np.add.reduceat(below.lengths, starts)
        measured.append(_Measured(values, lengths))
    return measured[::-1]


def _apply(
    operators: NDArray[np.int64], counts: NDArray[np.int64], starts: NDArray[np.int64], values: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The value of each operation; operation i has the `counts[i]` arguments from `values[starts[i]]` on."""
    order = np.lexsort((values, np.repeat(np.arange(len(counts)), counts)))
    ordered = values[order]
    lower, upper = ordered[starts + (counts - 1) // 2], ordered[starts + counts // 2]
    results = [
        ordered[starts],
        ordered[starts + counts - 1],
        (lower + upper) // 2,
        np.add.reduceat(values, starts) % 10,
    ]
    return np.choose(operators - _FIRST_OPERATOR, results)


def _serialise(
    levels: Sequence[_Level], measured: Sequence[_Measured], trees: NDArray[np.int64], width: int
) -> NDArray[np.uint8]:
    """Tokens `[rows, width]` of the chosen trees: each node comes after its parent and its earlier siblings."""
    tokens = np.zeros((len(trees), width), np.uint8)
    rows_above = np.full(len(levels[0].symbols), -1)
    rows_above[trees] = np.arange(len(trees))
    places_above = np.zeros(len(levels[0].symbols), np.int64)
    for depth, (level, known) in enumerate(zip(levels, measured, strict=True)):
        if depth == 0:
            rows, places = rows_above, places_above
        else:
            rows = rows_above[level.parents]
            ends = np.cumsum(known.lengths)
            starts = ends - known.lengths
            is_first = np.r_[True, level.parents[1:] != level.parents[:-1]] if len(starts) else np.empty(0, bool)
            of_first = starts[np.flatnonzero(is_first)][np.cumsum(is_first) - 1]
            places = places_above[level.parents] + 1 + starts - of_first
        chosen = rows >= 0
        tokens[rows[chosen], places[chosen]] = level.symbols[chosen]
        closing = chosen & (level.arguments > 0)
        tokens[rows[closing], places[closing] + known.lengths[closing] - 1] = _END
        rows_above, places_above = rows, places
    return tokens


def make_expressions(chosen: ListOpsSettings) -> Mapping[str, Sequences]:
    """Draws every split; no two expressions are equal.

    Test expressions come first and training expressions last, so that fewer training rows change nothing else.
    """
    sizes = {"test": chosen.test_rows, "validation": chosen.validation_rows, "train": chosen.train_rows}
    made = generate_expressions(np.random.default_rng(chosen.data_seed), sum(sizes.values()), chosen)
    ends = np.cumsum(list(sizes.values()))[:-1]
    parts = zip(*(np.split(array, ends) for array in (made.tokens, made.labels, made.row_lengths())), strict=True)
    return {name: Sequences(*part) for name, part in zip(sizes, parts, strict=True)}


LISTOPS = SequenceClassification(
    lra_info(
        "listops",
        "the value of a nested expression of digits",
        data="generated",
        licence="Apache-2.0",
        citation="Nangia and Bowman, ListOps, arXiv 1804.06028",
        scales={
            "smoke": (
                ListOpsSettings(min_length=30, max_length=128, train_rows=2_000, validation_rows=200, test_rows=500),
                {"steps": 60, "eval_every": 20},
            ),
            "small": (
                ListOpsSettings(min_length=100, max_length=512, train_rows=20_000, validation_rows=500),
                {"steps": 3_000, "eval_every": 250},
            ),
            "paper": (ListOpsSettings(), {"steps": 5_000, "warmup": 0.2, "eval_every": 50, "eval_rows": 2_000}),
        },
        train={"batch_size": 32, "length_pool": 32},
    ),
    ListOpsSettings,
    lambda chosen: ModelShape(context_length=chosen.max_length, vocab_size=len(TOKENS), num_classes=10),
    GeneratedSequences("listops", make_expressions),
)

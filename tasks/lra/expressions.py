"""ListOps expressions: nested operations on digits, drawn from the published grammar and evaluated.

A node is an operation with probability 1/4, else a digit; a node at the greatest depth is always a digit. An operation
is MIN, MAX, MED (the median, cut to a whole number) or SM (the sum modulo 10), each as likely, and has 2 to 10
arguments, each number as likely. An expression is kept when its length lies strictly between two bounds and it is new.
Its length counts one token for each operator (`[MAX`), digit and closing bracket: `[MAX 2 [MIN 3 4 ] 1 ]` has 8.

The trees of many expressions are drawn at once, depth by depth, which gives the same distribution as the published
generator's recursion; its random numbers, and so its very expressions, are others.

Source: Nangia and Bowman, arXiv 1804.06028; probabilities and bounds as in the generator of Long Range Arena
(Tay et al., arXiv 2011.04006).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OPERATION_PROBABILITY = 0.25
OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
TOKENS = (*map(str, range(10)), *OPERATORS, "]")
"""Spelling of each token id; the ids of digits are the digits."""

_FIRST_OPERATOR, _END = 10, 14
_TREES_AT_ONCE = 2_000


@dataclass(frozen=True)
class ListOpsExpressions:
    """ListOpsExpressions in tokens.

    Attributes:
        tokens: Token ids `[rows, n]` uint8, padded with 0 on the right.
        lengths: Tokens of each row.
        answers: Values, 0 to 9.
        depths: Greatest depth of any node, the outermost operation's being 1.
    """

    tokens: NDArray[np.uint8]
    lengths: NDArray[np.int32]
    answers: NDArray[np.int32]
    depths: NDArray[np.int32]


@dataclass(frozen=True)
class _Level:
    """The nodes of one depth, those of a tree and of a parent side by side.

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
    """What is known of each node of a level once the levels below are.

    Attributes:
        values: Its value.
        lengths: Its tokens.
        heights: Levels from it to its deepest node, both included.
    """

    values: NDArray[np.int64]
    lengths: NDArray[np.int64]
    heights: NDArray[np.int64]


def generate_expressions(
    rng: np.random.Generator, rows: int, *, min_length: int, max_length: int, max_depth: int, max_arguments: int
) -> ListOpsExpressions:
    """`rows` different expressions of more than `min_length` and fewer than `max_length` tokens.

    Raises:
        ValueError: Bounds that (almost) no expression keeps.
    """
    import numpy as np

    kept: dict[bytes, tuple[NDArray[np.uint8], int, int, int]] = {}
    drawn = 0
    while len(kept) < rows:
        levels = _draw(rng, _TREES_AT_ONCE, max_depth, max_arguments)
        measured = _measure(levels)
        roots = measured[0]
        fitting = np.flatnonzero((roots.lengths > min_length) & (roots.lengths < max_length))
        for tree, row in zip(fitting, _serialise(levels, measured, fitting, max_length), strict=True):
            digest = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
            kept.setdefault(digest, (row, roots.lengths[tree], roots.values[tree], roots.heights[tree]))
        drawn += _TREES_AT_ONCE
        if drawn >= 20 * _TREES_AT_ONCE and not kept:
            raise ValueError(
                f"of {drawn} expressions of depth {max_depth} none has more than {min_length} and fewer than "
                f"{max_length} tokens; widen the bounds, or set max_depth higher (10 is usual)"
            )
    tokens, *known = zip(*islice(kept.values(), rows), strict=True)
    return ListOpsExpressions(np.stack(tokens), *np.array(known, np.int32))


def _draw(rng: np.random.Generator, trees: int, max_depth: int, max_arguments: int) -> list[_Level]:
    """Trees whose root is an operation, as levels from the root down: a digit alone is always too short."""
    import numpy as np

    levels: list[_Level] = []
    parents = np.arange(trees)
    for depth in range(1, max_depth + 1):
        nodes = len(parents)
        if 1 < depth < max_depth:
            is_operation = rng.random(nodes) <= OPERATION_PROBABILITY
        else:
            is_operation = np.full(nodes, depth == 1)
        operators = _FIRST_OPERATOR + rng.integers(0, len(OPERATORS), nodes)
        arguments = np.where(is_operation, rng.integers(2, max_arguments + 1, nodes), 0)
        levels.append(_Level(parents, np.where(is_operation, operators, rng.integers(0, 10, nodes)), arguments))
        parents = np.repeat(np.arange(nodes), arguments)
    return levels


def _measure(levels: Sequence[_Level]) -> list[_Measured]:
    """Values, lengths and heights of the nodes of each level, worked out from the bottom up."""
    import numpy as np

    measured: list[_Measured] = []
    for level in reversed(levels):
        operations = np.flatnonzero(level.arguments)
        values, lengths = level.symbols.copy(), np.ones_like(level.symbols)
        heights = np.ones_like(level.symbols)
        if len(operations):
            below, counts = measured[-1], level.arguments[operations]
            starts = np.cumsum(counts) - counts
            values[operations] = _apply(level.symbols[operations], counts, starts, below.values)
            lengths[operations] = 2 + np.add.reduceat(below.lengths, starts)
            heights[operations] = 1 + np.maximum.reduceat(below.heights, starts)
        measured.append(_Measured(values, lengths, heights))
    return measured[::-1]


def _apply(
    operators: NDArray[np.int64], counts: NDArray[np.int64], starts: NDArray[np.int64], values: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The value of each operation, whose arguments are `counts` of `values` from its place in `starts`."""
    import numpy as np

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
    """Tokens `[rows, width]` of the chosen trees: each node stands behind its parent and its elder siblings."""
    import numpy as np

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

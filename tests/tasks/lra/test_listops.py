"""Tests of tasks/lra/listops.py."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
from scipy.stats import chi2_contingency, ks_1samp, ks_2samp

from hedgebench.tasks.lra.listops import OPERATORS, TOKENS, ListOpsSettings, generate_expressions
from hedgebench.tasks.lra.sequences import Sequences

BOUNDS: dict[str, Any] = {"min_length": 15, "max_length": 64, "max_depth": 6, "max_arguments": 10}


@cache
def generated() -> Sequences:
    return generate_expressions(np.random.default_rng(0), 2_000, ListOpsSettings(**BOUNDS))


def spelled(expressions: Sequences) -> list[list[str]]:
    rows = zip(expressions.tokens, expressions.row_lengths(), strict=True)
    return [[TOKENS[token] for token in row[:length]] for row, length in rows]


def evaluate(expression: Sequence[str]) -> int:
    """The value of an expression, read token by token; without the arrays of `generate_expressions`.

    Raises:
        ValueError: Brackets that do not close, or a spelling that is no token.
    """
    open_operations: list[tuple[str, list[int]]] = [("", [])]
    for token in expression:
        if token in OPERATORS:
            open_operations.append((token, []))
        elif token == "]" and len(open_operations) > 1:
            operator, arguments = open_operations.pop()
            open_operations[-1][1].append(apply_operator(operator, arguments))
        elif token.isdecimal() and len(token) == 1:
            open_operations[-1][1].append(int(token))
        else:
            raise ValueError(f"{token!r} has no place here; tokens are {' '.join(TOKENS)}")
    if len(open_operations) != 1 or len(open_operations[0][1]) != 1:
        raise ValueError(f"an expression must close every bracket and have one value: {' '.join(expression)}")
    return open_operations[0][1][0]


def apply_operator(operator: str, arguments: Sequence[int]) -> int:
    """The value of one operation on digits."""
    functions: Mapping[str, Callable[[Sequence[int]], float]] = {
        "[MIN": min,
        "[MAX": max,
        "[MED": statistics.median,
        "[SM": lambda digits: sum(digits) % 10,
    }
    return int(functions[operator](arguments))


def depth_of(expression: list[str]) -> int:
    """Depth of the deepest digit, the outermost operation's being 1."""
    depth, deepest = 1, 1
    for token in expression:
        depth += (token in OPERATORS) - (token == "]")
        deepest = max(deepest, depth)
    return deepest


def drawn_as_published(
    rows: int, *, min_length: int, max_length: int, max_depth: int, max_arguments: int
) -> list[list[str]]:
    """Expressions drawn node by node, as the published grammar says."""
    rng = random.Random(0)

    def node(depth: int) -> list[str]:
        if depth == max_depth or rng.random() > 0.25:
            return [str(rng.randrange(10))]
        arguments = [node(depth + 1) for _ in range(rng.randint(2, max_arguments))]
        return [rng.choice(OPERATORS), *(token for argument in arguments for token in argument), "]"]

    kept: list[list[str]] = []
    while len(kept) < rows:
        expression = node(1)
        if min_length < len(expression) < max_length:
            kept.append(expression)
    return kept


def independence(counts: Any) -> float:
    """p-value of two rows of counts having one distribution."""
    return float(cast(Any, chi2_contingency(counts)).pvalue)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),
        ("[MIN 2 9 [MAX 4 7 ] 3 ]", 2),
        ("[SM 9 9 [MED 1 5 2 ] ]", 0),
        ("[MED 3 4 ]", 3),
        ("[MED 1 8 9 2 ]", 5),
        ("[MED 0 9 9 ]", 9),
        ("[SM 1 2 [SM 9 8 ] [MAX 0 [MIN 6 5 ] ] ]", 5),
    ],
)
def test_known_expressions_have_their_values(text: str, value: int) -> None:
    assert evaluate(text.split()) == value


@pytest.mark.parametrize("text", ["", "[MAX 1 2", "1 2", "1 ]", "[MAX 1 x ]", "[MAX 12 3 ]"])
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"an expression must|no place"):
        evaluate(text.split())


def test_answers_and_lengths_are_those_of_reading_token_by_token() -> None:
    expressions = generated()
    for row, (text, answer) in enumerate(zip(spelled(expressions), expressions.labels, strict=True)):
        assert evaluate(text) == answer
        assert (expressions.tokens[row, expressions.row_lengths()[row] :] == 0).all()


def test_expressions_keep_the_bounds_and_no_two_are_alike() -> None:
    expressions = generated()
    assert expressions.row_lengths().min() > 15
    assert expressions.row_lengths().max() < 64
    assert max(map(depth_of, spelled(expressions))) <= 6
    assert len({tuple(text) for text in spelled(expressions)}) == len(expressions.tokens)
    for text in spelled(expressions)[:200]:
        open_operations = [0]
        for token in text:
            if token == "]":
                assert 2 <= open_operations.pop() <= 10
            else:
                open_operations[-1] += 1
                if token in OPERATORS:
                    open_operations.append(0)


def test_they_are_distributed_as_those_of_the_published_recursion() -> None:
    ours, theirs = generated(), drawn_as_published(1_000, **BOUNDS)
    answers = [np.bincount(values, minlength=10) for values in (ours.labels, [evaluate(text) for text in theirs])]
    depths = [np.bincount([*map(depth_of, texts)], minlength=7)[2:] for texts in (spelled(ours), theirs)]
    tokens = [
        [sum(text.count(token) for text in texts) for token in TOKENS] for texts in (spelled(ours)[:500], theirs[:500])
    ]
    assert independence(answers) > 1e-3
    assert independence(np.array(depths)[:, np.sum(depths, axis=0) > 0]) > 1e-3
    assert independence(tokens) > 1e-3
    assert float(cast(Any, ks_2samp(ours.row_lengths(), [len(text) for text in theirs])).pvalue) > 1e-3


def length_shares(*, min_length: int, max_length: int, max_depth: int, max_arguments: int) -> np.ndarray[Any, Any]:
    """The share of expressions of each length under the grammar, exactly, from the deepest level up: `[max_length]`."""
    digit = np.eye(1, max_length, 1)[0]

    def operation(below: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        total, of_arguments = np.zeros(max_length), below
        for _ in range(2, max_arguments + 1):
            of_arguments = np.convolve(of_arguments, below)[:max_length]
            total += of_arguments / (max_arguments - 1)
        return np.concatenate([[0, 0], total[:-2]])

    node = digit
    for _ in range(max_depth - 2):
        node = 0.25 * operation(node) + 0.75 * digit
    shares = operation(node)
    shares[: min_length + 1] = 0
    return np.asarray(shares / shares.sum())


def shown(name: str, answers: Any, mean: float, quartiles: Any) -> str:
    """A row of the table in docs/measurements.md."""
    shares = " ".join(f"{share:.1f}" for share in 100 * np.bincount(answers, minlength=10) / max(1, len(answers)))
    return f"| {name} | {shares if len(answers) else ''} | {mean:,.0f} | {', '.join(f'{q:,.0f}' for q in quartiles)} |"


def test_lengths_are_distributed_as_the_grammar_says() -> None:
    expected = length_shares(**BOUNDS).cumsum()
    assert float(cast(Any, ks_1samp(generated().lengths, lambda length: expected[length.astype(int)])).pvalue) > 1e-3


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_at_paper_settings_they_are_distributed_as_the_grammar_says() -> None:
    """Prints the table of docs/measurements.md; run with `pytest -m slow -s tests/tasks/test_listops.py`.

    Lengths are held to their exact distribution, answers to those of the published recursion.
    """
    paper, quarters = ListOpsSettings(), (0.25, 0.5, 0.75)
    bounds = {name: getattr(paper, name) for name in BOUNDS}
    rows = paper.train_rows + paper.validation_rows + paper.test_rows
    ours = generate_expressions(np.random.default_rng(paper.data_seed), rows, paper)
    texts = drawn_as_published(1_500, **bounds)
    answers, lengths = [evaluate(text) for text in texts], [len(text) for text in texts]
    shares = length_shares(**bounds)
    exact = shares.cumsum()
    of_answers = independence([np.bincount(values, minlength=10) for values in (ours.labels, answers)])
    of_lengths = float(cast(Any, ks_1samp(ours.row_lengths(), lambda length: exact[length.astype(int)])).pvalue)
    print()
    print(shown("ours", ours.labels, float(ours.row_lengths().mean()), np.quantile(ours.row_lengths(), quarters)))
    print(shown("recursion", answers, float(np.mean(lengths)), np.quantile(lengths, quarters)))
    print(shown("exactly", [], float(shares @ np.arange(len(shares))), np.searchsorted(exact, quarters)))
    print(f"answers: p = {of_answers:.2f}; lengths: p = {of_lengths:.2f}")
    assert (len(ours.tokens), len(texts)) == (100_000, 1_500)
    assert 500 < ours.row_lengths().min() <= ours.row_lengths().max() < 2_000
    assert min(of_answers, of_lengths) > 1e-3


def test_answers_lean_to_0_and_9() -> None:
    shares = np.bincount(generated().labels, minlength=10) / 2_000
    assert shares[[0, 9]].min() > 0.13
    assert shares[1:9].max() < 0.11


def test_the_seed_decides_and_fewer_rows_are_the_first_ones() -> None:
    again, fewer, other = (
        generate_expressions(np.random.default_rng(seed), rows, ListOpsSettings(**BOUNDS))
        for seed, rows in ((0, 300), (0, 20), (1, 20))
    )
    assert (again.tokens == generated().tokens[:300]).all()
    assert (fewer.tokens == again.tokens[:20]).all()
    assert (other.tokens != fewer.tokens).any()


@pytest.mark.parametrize("bounds", [{"max_depth": 2}, {"min_length": 1, "max_length": 3}])
def test_bounds_that_keep_nothing_are_refused(bounds: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="widen the bounds"):
        generate_expressions(np.random.default_rng(0), 1, ListOpsSettings(**{**BOUNDS, **bounds}))

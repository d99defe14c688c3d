"""Mutants: one small change each of the product's code, drawn by a seed from all that Cosmic Ray's operators can make.

Left alone are the bodies of Triton kernels, which the interpreter's tests hold to the naive forms, and what no test can
see: annotations, decorators' options, and imports for type checkers. Cosmic Ray changes no text and no docstring.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.provider import OperatorProvider

FLOORS = ("harness", "tasks", "adapters", "kernels", "results")

OPERATORS = (
    *("AddNot", "ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue"),
    *("NumberReplacer", "ZeroIterationForLoop", "ReplaceBreakWithContinue", "ReplaceContinueWithBreak"),
    *("ReplaceUnaryOperator_Delete_Not", "ReplaceUnaryOperator_Delete_USub"),
    *(
        f"ReplaceComparisonOperator_{change}"
        for change in (
            *("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is", "Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt"),
            *("Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt"),
        )
    ),
    *(
        f"ReplaceBinaryOperator_{change}"
        for change in (
            *("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Mul", "Pow_Mul"),
            *("BitOr_BitAnd", "BitAnd_BitOr", "LShift_RShift", "RShift_LShift"),
        )
    ),
)
"""Cosmic Ray's operators that are used: of its 132 ways to replace an arithmetic operator, the one that is likest."""

_KNOWN: Any = OperatorProvider()

_BINARY = {"arith_expr", "term", "power", "expr", "xor_expr", "and_expr", "shift_expr"}
"""Nodes whose operators have two operands: Cosmic Ray takes the star of a signature or of `{**some}` for one too."""

Span = tuple[tuple[int, int], tuple[int, int]]
"""Line and column of the start and of the end."""


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        file: The module, relative to the root.
        line: The first line that differs, from 1.
        was: This line, without its indentation.
        now: The same line of the mutant.
        source: The mutant's whole source.
    """

    file: str
    line: int
    was: str
    now: str
    source: str = field(repr=False, compare=False)


def draw(root: Path, count: int, seed: int) -> list[Mutant]:
    """Draws mutants from all places of the floors below `root` alike, fewer if there are not as many."""
    chance, sources = random.Random(seed), {}
    places: list[tuple[Path, list[tuple[str, int]]]] = []
    for path in (path for floor in FLOORS for path in sorted((root / floor).rglob("*.py"))):
        sources[path] = path.read_text(encoding="utf-8")
        places += ((path, changes) for _, changes in sorted(changes_by_place(sources[path]).items()))
    chance.shuffle(places)
    found: list[Mutant] = []
    for path, changes in places:
        if len(found) == count:
            break
        found += _mutant(path.relative_to(root).as_posix(), sources[path], *chance.choice(changes))
    return found


def changes_by_place(source: str) -> dict[Span, list[tuple[str, int]]]:
    """Where a module may be changed, and how: names of operators, each with the index of its occurrence."""
    found: dict[Span, list[tuple[str, int]]] = defaultdict(list)
    nodes = list(ast_nodes(get_ast(source)))
    left_alone = list(_left_alone(nodes))
    for name in OPERATORS:
        operator, occurrence = _KNOWN[name](), -1
        for node in nodes:
            for start, end in operator.mutation_positions(node):
                occurrence += 1
                is_one = node.type != "operator" or node.parent.type in _BINARY
                if is_one and not any(first <= start and end <= last for first, last in left_alone):
                    found[start, end].append((name, occurrence))
    return found


def _left_alone(nodes: list[Any]) -> Iterator[Span]:
    for node in nodes:
        if node.type in ("decorator", "annassign") or (
            node.type == "if_stmt" and node.children[1].get_code().strip() == "TYPE_CHECKING"
        ):
            last = node.children[1] if node.type == "annassign" else node
            yield node.start_pos, last.end_pos
        elif node.type in ("param", "funcdef") and node.annotation is not None:
            yield node.annotation.start_pos, node.annotation.end_pos
        elif node.type == "decorated" and "triton.jit" in node.children[0].get_code():
            yield node.start_pos, node.end_pos


def _mutant(file: str, source: str, operator: str, occurrence: int) -> Iterator[Mutant]:
    """The mutant, or nothing if it is no valid Python."""
    mutated: Any = mutate_code(source, _KNOWN[operator](), occurrence)
    try:
        compile(mutated, file, "exec", dont_inherit=True)
    except (SyntaxError, SyntaxWarning):
        return
    pairs = zip(source.splitlines(), mutated.splitlines(), strict=False)
    for line, (was, now) in enumerate(pairs, start=1):
        if was != now:
            yield Mutant(file, line, was.strip(), now.strip(), mutated)
            return

"""Files, functions and lists of parameters are short, modules say what they give, a class name has one meaning."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("harness", "tasks", "adapters", "kernels", "results")
FILES = [
    *(ROOT / "__init__.py", ROOT / "__main__.py"),
    *sorted(path for folder in (*FOLDERS, "tests", "examples") for path in (ROOT / folder).rglob("*.py")),
]
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 350, 60, 8
FLAT = ("jit", "custom_op", "register_kernel", "register_fake", "triton_op")
"""Decorators of functions whose parameters Triton or torch.library reads one by one."""


def problems(source: str, is_test: bool) -> list[str]:
    """What is too long or says nothing in a module's source."""
    tree, found = ast.parse(source), []
    if not ast.get_docstring(tree) and not is_test:
        found.append("the module has no docstring")
    if (lines := len(source.splitlines())) > MAX_FILE_LINES:
        found.append(f"the file has {lines} lines; at most {MAX_FILE_LINES} are wanted")
    for node in ast.walk(tree) if not is_test else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found += _function_problems(node)
    return found


def _function_problems(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    decorators = [ast.unparse(each) for each in node.decorator_list]
    # A kernel's parameters, which Triton takes one by one, say nothing of how much it does.
    first = node.body[0].lineno if any("jit" in each for each in decorators) else node.lineno
    if (lines := (node.end_lineno or node.lineno) - first + 1) > MAX_FUNCTION_LINES:
        yield f"{node.name} has {lines} lines; at most {MAX_FUNCTION_LINES} are wanted"
    if any(word in each for word in FLAT for each in decorators):
        return
    positional = [each.arg for each in (*node.args.posonlyargs, *node.args.args) if each.arg not in ("self", "cls")]
    is_public = not node.name.startswith("_") or node.name == "__init__"
    if (count := len(positional) + (0 if is_public else len(node.args.kwonlyargs))) > MAX_PARAMETERS:
        yield f"{node.name} takes {count} parameters; at most {MAX_PARAMETERS} are wanted, or more by keyword if public"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_short_and_says_what_it_gives(path: Path) -> None:
    assert problems(path.read_text(encoding="utf-8"), is_test=path.is_relative_to(ROOT / "tests")) == []


def test_a_public_class_name_has_one_meaning() -> None:
    places = defaultdict(list)
    for path in FILES:
        if path.relative_to(ROOT).parts[0] in FOLDERS:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(str(path.relative_to(ROOT)))
    assert len(places) > 100
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_each_way_to_break_the_rule_is_found() -> None:
    body = "    pass\n" * MAX_FUNCTION_LINES
    assert problems("x = 1\n", is_test=False) == ["the module has no docstring"]
    assert problems(f'"""Says."""\ndef long():\n{body}', is_test=False) == ["long has 61 lines; at most 60 are wanted"]
    assert problems(f'"""Says."""\ndef long():\n{body}', is_test=True) == []
    long_file = '"""Says."""\n' + "x = 1\n" * MAX_FILE_LINES
    assert problems(long_file, is_test=True) == ["the file has 351 lines; at most 350 are wanted"]


@pytest.mark.parametrize(
    ("signature", "is_fine"),
    [
        ("def f(a, b, c, d, e, f, g, h): pass", True),
        ("def f(a, b, c, d, e, f, g, h, i): pass", False),
        ("def f(a, b, c, *, d, e, f, g, h, i): pass", True),
        ("def _f(a, b, c, *, d, e, f, g, h, i): pass", False),
        ("class C:\n    def __init__(self, a, b, c, d, e, f, g, h): pass", True),
        ("@triton.jit\ndef f(a, b, c, d, e, f, g, h, i): pass", True),
        ("@torch.library.custom_op('x::y', mutates_args=())\ndef f(a, b, c, d, e, f, g, h, i): pass", True),
        ("@cache\ndef f(a, b, c, d, e, f, g, h, i): pass", False),
    ],
)
def test_long_lists_of_parameters_are_found(signature: str, is_fine: bool) -> None:
    assert (problems(f'"""Says."""\n{signature}\n', is_test=False) == []) == is_fine

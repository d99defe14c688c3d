"""Files and functions stay short, and every module but a test says what it gives."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("harness", "tasks", "adapters", "kernels", "results")
FILES = [
    *(ROOT / "__init__.py", ROOT / "__main__.py"),
    *sorted(path for folder in (*FOLDERS, "tests") for path in (ROOT / folder).rglob("*.py")),
]
MAX_FILE_LINES, MAX_FUNCTION_LINES = 350, 60


def problems(source: str, is_test: bool) -> list[str]:
    """What is too long or says nothing in a module's source."""
    tree, found = ast.parse(source), []
    if not ast.get_docstring(tree) and not is_test:
        found.append("the module has no docstring")
    if (lines := len(source.splitlines())) > MAX_FILE_LINES:
        found.append(f"the file has {lines} lines; at most {MAX_FILE_LINES} are wanted")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_test:
            # A kernel's parameters, which Triton takes one by one, say nothing of how much it does.
            first = (
                node.body[0].lineno if any("jit" in ast.unparse(each) for each in node.decorator_list) else node.lineno
            )
            lines = (node.end_lineno or node.lineno) - first + 1
            if lines > MAX_FUNCTION_LINES:
                found.append(f"{node.name} has {lines} lines; at most {MAX_FUNCTION_LINES} are wanted")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_short_and_says_what_it_gives(path: Path) -> None:
    assert problems(path.read_text(encoding="utf-8"), is_test=path.is_relative_to(ROOT / "tests")) == []


def test_each_way_to_break_the_rule_is_found() -> None:
    body = "    pass\n" * MAX_FUNCTION_LINES
    assert problems("x = 1\n", is_test=False) == ["the module has no docstring"]
    assert problems(f'"""Says."""\ndef long():\n{body}', is_test=False) == ["long has 61 lines; at most 60 are wanted"]
    assert problems(f'"""Says."""\ndef long():\n{body}', is_test=True) == []
    long_file = '"""Says."""\n' + "x = 1\n" * MAX_FILE_LINES
    assert problems(long_file, is_test=True) == ["the file has 351 lines; at most 350 are wanted"]

"""What `import hedgebench` gives, and when."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hedgebench

SOURCE = Path(hedgebench.__file__).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", hedgebench.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(hedgebench, name) is not None
    assert name in dir(hedgebench)


def test_type_checkers_and_python_find_each_name_in_the_same_module() -> None:
    branches = (node for node in ast.parse(SOURCE).body if isinstance(node, ast.If))
    block = next(node for node in branches if ast.unparse(node.test) == "TYPE_CHECKING")
    typed = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == hedgebench._MODULES
    assert set(typed) | {"__version__"} == set(hedgebench.__all__)


def test_the_reference_has_every_name_at_its_place() -> None:
    lines = (Path(__file__).parents[1] / "docs" / "reference.md").read_text(encoding="utf-8").splitlines()
    listed = {line.removeprefix("::: ") for line in lines if line.startswith("::: ")}
    assert listed >= {f"{module}.{name}" for name, module in hedgebench._MODULES.items()}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        hedgebench.runn  # type: ignore[attr-defined] # noqa: B018


def test_importing_takes_little_and_loads_nothing_heavy() -> None:
    script = (
        "import sys, time; start = time.process_time(); import hedgebench; spent_s = time.process_time() - start\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pandas', 'rich', 'matplotlib', 'huggingface_hub'}\n"
        "print(spent_s, sorted(heavy & sys.modules.keys()))"
    )
    done = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split(" ", 1)
        for _ in range(3)
    ]
    assert {heavy for _, heavy in done} == {"[]\n"}
    assert min(float(spent) for spent, _ in done) < 0.05

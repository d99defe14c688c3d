"""A floor of the house imports only from floors below it, and names them relatively."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BELOW = {
    "harness": {"tasks", "adapters", "kernels", "results"},
    "tasks": {
        "adapters.base",
        "adapters.pretrained.tokenizer",
        "adapters.pretrained.weight_files",
        "kernels",
        "results",
    },
    "adapters": {"kernels", "results"},
    "kernels": {"results.names"},
    "results": set[str](),
}
"""What each folder may import from.

A name with a dot allows that one module: all floors suggest nearest names by one function.
"""

FORBIDDEN = {"results": {"torch", "triton", "transformers"}, "kernels": {"transformers", "datasets"}}
ROOT_FILES = {"__init__.py", "__main__.py", "py.typed"}


def violations(root: Path) -> list[str]:
    """What breaks the rules below `root`, as `file:line: what`."""
    found = [f"{path.relative_to(root)}: no floor and no room has an __init__.py" for folder in BELOW
             for path in (root / folder).rglob("__init__.py")]  # fmt: skip
    found += [f"{path.name}: it stands in the root" for path in root.glob("*.py") if path.name not in ROOT_FILES]
    for folder in BELOW:
        for path in sorted((root / folder).rglob("*.py")):
            inside = path.relative_to(root).parts[:-1]
            for line, problem in _problems(inside, path.read_text(encoding="utf-8")):
                found.append(f"{path.relative_to(root)}:{line}: {problem}")
    return found


def _problems(inside: tuple[str, ...], source: str) -> Iterator[tuple[int, str]]:
    """Problems of a module that lies in the folders `inside`, a floor and its rooms."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _absolute(inside[0], node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from _absolute(inside[0], node.lineno, node.module or "")
        elif isinstance(node, ast.ImportFrom) and node.level > len(inside) + 1:
            yield node.lineno, "it imports from outside the package"
        elif isinstance(node, ast.ImportFrom) and node.level > 1:
            left, named = inside[: len(inside) - node.level + 1], node.module.split(".") if node.module else []
            for alias in node.names:
                target = (*left, *named, alias.name)
                yield from _upwards(inside, node, target, len(left))


def _absolute(folder: str, line: int, name: str) -> Iterator[tuple[int, str]]:
    top = name.partition(".")[0]
    if top == "hedgebench" or top in BELOW:
        yield line, f"it imports {name} by its absolute name"
    if top in FORBIDDEN.get(folder, ()):
        yield line, f"{folder} must not import {top}"


def _upwards(
    inside: tuple[str, ...], node: ast.ImportFrom, target: tuple[str, ...], left: int
) -> Iterator[tuple[int, str]]:
    """Problems of an import with two dots or more; `left` is how many of its folders the dots leave."""
    floor, name = target[0], ".".join(target)
    if len(target) > left + 1 and target[left] == inside[left]:
        yield node.lineno, f"it names its own folder in {name}; fewer dots do"
    elif floor != inside[0] and floor in BELOW:
        allowed = BELOW[inside[0]]
        if not any(name == each or name.startswith(f"{each}.") for each in allowed):
            yield node.lineno, f"{inside[0]} must not import {name}"


def test_every_import_goes_down() -> None:
    assert violations(ROOT) == []


def test_the_root_holds_no_other_module() -> None:
    assert {path.name for path in ROOT.iterdir() if path.suffix in (".py", ".typed")} == ROOT_FILES


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("kernels/a.py", "from ..adapters.base import Adapter"),
        ("kernels/a.py", "from ..results.record import Record"),
        ("results/a.py", "from ..kernels import costs"),
        ("results/a.py", "def f():\n    import torch.nn"),
        ("results/a.py", "from torch import Tensor"),
        ("adapters/a.py", "from ..tasks.base import Task"),
        ("adapters/a.py", "from .. import harness"),
        ("tasks/a.py", "from ..adapters.spec import parse_spec"),
        ("tasks/a.py", "from ..adapters import spec"),
        ("tasks/a.py", "if TYPE_CHECKING:\n    from ..harness.cell import Cell"),
        ("harness/a.py", "from hedgebench.tasks.base import Task"),
        ("harness/a.py", "import hedgebench.tasks"),
        ("harness/a.py", "import kernels.feature_maps"),
        ("harness/a.py", "from ..harness.cell import Cell"),
        ("harness/a.py", "from ...elsewhere import thing"),
        ("harness/room/a.py", "from ..room.b import thing"),
        ("harness/room/a.py", "from ...harness.cell import Cell"),
        ("harness/room/a.py", "from ....elsewhere import thing"),
        ("kernels/room/a.py", "from ...adapters.base import Adapter"),
        ("tasks/room/a.py", "from ...adapters.attention.core import Heads"),
        ("tasks/room/inner/a.py", "from ....adapters import spec"),
        ("results/room/a.py", "import torch"),
        ("kernels/__init__.py", ""),
        ("kernels/room/__init__.py", ""),
        ("extra.py", ""),
    ],
)
def test_each_way_to_break_the_rule_is_found(tmp_path: Path, file: str, source: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("harness/a.py", "from .. import __version__\nfrom .cell import Cell\nfrom ..tasks.base import Task"),
        ("harness/a.py", "import torch\nfrom ..kernels import costs"),
        ("tasks/a.py", "from ..adapters.base import Adapter\nfrom ..adapters import base\nfrom . import settings"),
        ("adapters/a.py", "from ..kernels.feature_map import FeatureMap\nfrom ..results.record import KernelUse"),
        ("results/a.py", "import numpy\nfrom .record import Record"),
        (
            "tasks/room/a.py",
            "from ...adapters.base import Adapter\nfrom ..base import Task\nfrom ..other.b import thing",
        ),
        (
            "harness/room/a.py",
            "from ... import __version__\nfrom .b import c\nfrom ..cell import Cell\nfrom ...results import x",
        ),
        ("__main__.py", "from .harness.cli import main"),
    ],
)
def test_what_the_rule_allows_is_left_alone(tmp_path: Path, file: str, source: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")
    assert violations(tmp_path) == []

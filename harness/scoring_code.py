"""Which of our code turns a task's predictions into numbers: the modules that the task's own import, one after another.

Followed are imports of `tasks/` and `results/` wherever a module has them, and of `kernels/` at its top, as those count
operations and bytes; inside functions `kernels/` is what is measured. Models (`adapters/`) are not followed: a record
names the commit. A plugin's modules are followed within its own package, and from there into ours.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeAlias

from ..tasks.base import Task
from .environment import source_fingerprint
from .registry import PACKAGE, ROOT

_SCORES = (ROOT / "tasks", ROOT / "results")
_COUNTS = ROOT / "kernels"
_Import: TypeAlias = ast.Import | ast.ImportFrom


def scoring_fingerprint(task: Task) -> str:
    """Hash of the files of `scoring_files`."""
    return source_fingerprint(scoring_files(task))


def scoring_files(task: Task) -> list[Path]:
    """The files of the task's class and of the modules that hold the task, and of all that they import to score."""
    found = {Path(inspect.getfile(type(task))).resolve(), *_declaring(task)}
    ahead = list(found)
    while ahead:
        new = set(_imported(ahead.pop())) - found
        found |= new
        ahead += new
    return sorted(found)


def _declaring(task: Task) -> Iterator[Path]:
    """Of the modules that tasks are looked for in, those that hold this one: another may have its class."""
    plugins = {entry.module for entry in entry_points(group=f"{PACKAGE}.tasks")}
    for name, module in list(sys.modules.items()):
        is_searched = name.startswith(f"{PACKAGE}.tasks.") or name in plugins
        if is_searched and module.__file__ and any(value is task for value in vars(module).values()):
            yield Path(module.__file__).resolve()


@cache
def _imported(path: Path) -> tuple[Path, ...]:
    """The files that a module imports to score, without those that they import in turn."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_top = {id(node) for node in tree.body}
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return tuple(dict.fromkeys(
        file
        for node in imports
        for file in _files(node, path)
        if file != path and _is_followed(file, id(node) in at_top)
    ))  # fmt: skip


def _is_followed(file: Path, at_top: bool) -> bool:
    if not file.is_relative_to(ROOT) or any(file.is_relative_to(folder) for folder in _SCORES):
        return True
    return file.is_relative_to(_COUNTS) and at_top


def _files(node: _Import, path: Path) -> Iterator[Path]:
    """The files that an import names, as far as they are ours or of the same package as the module."""
    for folder, parts in _named(node, path):
        whole = folder.joinpath(*parts)
        for file in (whole.with_suffix(".py"), whole / "__init__.py"):
            if parts and file.is_file():
                yield file


def _named(node: _Import, path: Path) -> Iterable[tuple[Path, tuple[str, ...]]]:
    """Folders, and the dotted names below them that may be modules: what is imported from one may be one itself."""
    if isinstance(node, ast.Import):
        names = [tuple(alias.name.split(".")) for alias in node.names]
    else:
        module = tuple((node.module or "").split(".")) if node.module else ()
        names = [module, *((*module, alias.name) for alias in node.names)]
    if isinstance(node, ast.ImportFrom) and node.level:
        return [(path.parents[node.level - 1], parts) for parts in names]
    return [
        (folder, parts[1:])
        for parts in names
        for folder in (ROOT if parts[0] == PACKAGE else _package(parts[0], path),)
        if folder is not None
    ]


def _package(name: str, path: Path) -> Path | None:
    """The folder of a package that a module lies in; None where it does not lie in that one."""
    return next((folder for folder in path.parents if folder.name == name), None)

"""The code that turns a task's predictions into numbers: the task's modules, and all that they import to score.

Imports of `tasks/`, `results/` and `kernels/` are followed wherever a module has them, and those of a plugin within its
own package and from there into ours. Models (`adapters/`) are not followed: `adapters.model_code` is their version.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

from ..tasks.base import Task
from .code_digest import digest_of, reachable
from .registry import PACKAGE, ROOT

_FOLLOWED = frozenset({"tasks", "results", "kernels"})


def scoring_fingerprint(task: Task) -> str:
    """Digest of what the modules of `scoring_files` compute, 16 hex digits; docstrings and layout do not count."""
    return digest_of(_roots(task), find_module)[:16]


def scoring_files(task: Task) -> frozenset[Path]:
    """The files of the task's class and of the modules that hold the task, and of all that they import to score."""
    return reachable(_roots(task), find_module)


def find_module(parts: tuple[str, ...], path: Path) -> Path | None:
    """The file of a module that counts: in a followed folder of this package, or in the package of `path`.

    Args:
        parts: The dotted name; one empty part in front for each dot of a relative name.
        path: The file of the module that imports it.

    Returns:
        The file; None for a module that does not count.
    """
    dots = next((index for index, part in enumerate(parts) if part), len(parts))
    names = parts[dots:]
    if dots:
        folder: Path | None = path.parents[dots - 1]
    elif names[:1] == (PACKAGE,):
        folder, names = ROOT, names[1:]
    else:
        folder = next((parent.parent for parent in path.parents if names and parent.name == names[0]), None)
    if folder is None or not names:
        return None
    whole = folder.joinpath(*names)
    files = (whole.with_name(f"{whole.name}.py"), whole / "__init__.py")
    return next((file for file in files if file.is_file() and _counts(file)), None)


def _counts(file: Path) -> bool:
    return not file.is_relative_to(ROOT) or file.relative_to(ROOT).parts[0] in _FOLLOWED


def _roots(task: Task) -> set[Path]:
    return {Path(inspect.getfile(type(task))).resolve(), *_declaring(task)}


def _declaring(task: Task) -> Iterator[Path]:
    """The modules that declare this task, among those that are searched for tasks; its class may be in another one."""
    plugins = {entry.module for entry in entry_points(group=f"{PACKAGE}.tasks")}
    for name, module in list(sys.modules.items()):
        is_searched = name.startswith(f"{PACKAGE}.tasks.") or name in plugins
        if is_searched and module.__file__ and any(value is task for value in vars(module).values()):
            yield Path(module.__file__).resolve()

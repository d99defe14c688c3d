"""The code that a cell's key covers: what turns a task's predictions into numbers, and a plugin's mechanism.

Imports of `tasks/`, `results/` and `kernels/` are followed wherever a module has them, and those of a plugin within its
own package and from there into ours. Models (`adapters/`) are not followed: `adapters.model_code` is their version.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from ..tasks.base import Task
from . import registry
from .code_digest import digest_of, reachable
from .registry import PACKAGE, ROOT

_FOLLOWED = frozenset({"tasks", "results", "kernels"})


def scoring_fingerprint(task: Task) -> str:
    """Digest of what the modules of `scoring_files` compute, 16 hex digits; docstrings and layout do not count."""
    return digest_of(_roots(task), find_module)[:16]


def scoring_files(task: Task) -> frozenset[Path]:
    """The files of the task's class and of the modules that hold the task, and of all that they import to score."""
    return reachable(_roots(task), find_module)


def mechanism_code(name: str) -> str:
    """Digest of a mechanism's code if it may change between two runs, 16 hex digits.

    Of a mechanism made in a Python session it is the session's. Of a plugin's it covers the module that declares it,
    those of its feature map and attention, and what these import within their package. Ours has none:
    `adapters.model_code` is its version.
    """
    known = registry.mechanisms()
    if name in known.code or name not in known.plugins:
        return known.code.get(name, "")
    mechanism = known.items[name]
    places = (mechanism.feature_map, mechanism.attention, *(each.attention for each in mechanism.variants.values()))
    named = (place.partition(":")[0] if isinstance(place, str) else place.__module__ for place in places if place)
    files = {file for module in (known.plugins[name], *named) if (file := _file_of(module)) is not None}
    return digest_of(files, _find_outside)[:16]


def _file_of(module: str) -> Path | None:
    """The source of a plugin's module; None for our own, and for what is no Python source or does not exist."""
    try:
        found = find_spec(module)
    except (ImportError, ValueError):  # the cell that needs it says so
        return None
    file = Path(found.origin or "").resolve() if found else Path()
    return file if file.suffix == ".py" and not file.is_relative_to(ROOT) else None


def _find_outside(parts: tuple[str, ...], path: Path) -> Path | None:
    """As `find_module`, without our own package."""
    file = find_module(parts, path)
    return None if file is None or file.is_relative_to(ROOT) else file


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

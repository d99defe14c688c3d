"""What exists: built-in mechanisms and tasks found by walking their folders, and those of plugins by entry points.

Nothing here imports torch. A plugin that cannot be loaded is remembered, and told to whoever asks for its name.
"""

from __future__ import annotations

import fnmatch
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Generic, Protocol, TypeGuard, TypeVar

from ..adapters.backbone import BACKBONES, Backbone
from ..adapters.mechanisms.declaration import Mechanism
from ..results.names import GROUPS, UnknownNameError, unknown_name
from ..tasks.base import Task, TaskFamily, TaskInfo

PACKAGE = __name__.partition(".")[0]
ROOT = Path(__file__).resolve().parent.parent

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Family(Protocol[T_co]):
    """What makes things from their names; `TaskFamily` says how."""

    @property
    def prefix(self) -> str:
        """What every name of the family begins with."""
        ...

    @property
    def summary(self) -> str:
        """One line for listings."""
        ...

    @property
    def data(self) -> tuple[str, ...]:
        """What data the things read."""
        ...

    def expand(self, name: str) -> Sequence[str]:
        """The names that a name stands for."""
        ...

    def get(self, name: str) -> T_co:
        """The thing of that name."""
        ...


@dataclass(frozen=True)
class Registry(Generic[T]):
    """Things by name, and why some plugins are missing.

    Attributes:
        what: What is registered, such as `model`.
        items: Everything usable.
        broken: Entry points that could not be loaded, with the reason.
        families: Makers of what is too many to list, by the prefix of their names.
    """

    what: str
    items: Mapping[str, T]
    broken: Mapping[str, str] = field(default_factory=dict)
    families: Mapping[str, Family[T]] = field(default_factory=dict)

    def get(self, name: str) -> T:
        """The item of that name.

        Raises:
            UnknownNameError: There is none, with the nearest names; or its plugin is broken, with the reason.
        """
        if name in self.items:
            return self.items[name]
        if name in self.broken:
            raise UnknownNameError(f"{self.what} {name!r} is a plugin that could not be loaded: {self.broken[name]}")
        if family := self.family(name):
            return family.get(name)
        raise unknown_name(self.what, name, [*self.items, *(f"{prefix}NAME" for prefix in self.families)])

    def family(self, name: str) -> Family[T] | None:
        """The family whose names begin as this one does, if any."""
        return next((family for prefix, family in self.families.items() if name.startswith(prefix)), None)


@cache
def mechanisms() -> Registry[Mechanism]:
    """Every attention mechanism."""
    modules = _modules("adapters/mechanisms")
    return _registry("model", "hedgebench.adapters", modules, _is_mechanism, lambda mechanism: mechanism.name)


@cache
def tasks() -> Registry[Task]:
    """Every task, and the families that make tasks from names."""
    modules = list(_modules("tasks"))
    found: Registry[Task] = _registry("task", "hedgebench.tasks", modules, _is_task, lambda task: task.info.name)
    values = (value for module in modules for value in vars(module).values())
    return replace(found, families={value.prefix: value for value in values if _is_family(value)})


def task_names(pattern: str) -> Sequence[str]:
    """The names of the tasks that a name, a glob or the part of a name before `/` stands for.

    Globs are over the tasks that are listed, not over families.

    Raises:
        UnknownNameError: There is none.
    """
    known = tasks()
    if family := known.family(pattern):
        return family.expand(pattern)
    group = [n for n in known.items if n in GROUPS.get(pattern, (n,)) and n.startswith(f"{pattern}/")]
    return fnmatch.filter(known.items, pattern) or group or [known.get(pattern).info.name]


@cache
def backbones() -> Registry[Backbone]:
    """Every backbone."""
    return Registry("backbone", BACKBONES)


def _modules(folder: str) -> Iterator[ModuleType]:
    """Every module below a folder, in all of its rooms."""
    for file in sorted((ROOT / folder).rglob("*.py")):
        yield importlib.import_module(".".join((PACKAGE, *file.relative_to(ROOT).with_suffix("").parts)))


def _registry(
    what: str,
    group: str,
    modules: Iterable[ModuleType],
    accepts: Callable[[object], bool],
    name_of: Callable[[T], str],
) -> Registry[T]:
    items: dict[str, T] = {}
    for module in modules:
        for value in vars(module).values():
            if accepts(value) and items.setdefault(name_of(value), value) is not value:
                raise RuntimeError(f"two built-in {what}s are named {name_of(value)!r}")
    broken: dict[str, str] = {}
    for entry in sorted(entry_points(group=group), key=lambda entry: (entry.name, entry.value)):
        _add_plugin(entry.name, entry.load, items, broken, accepts, name_of)
    return Registry(what, dict(sorted(items.items())), broken)


def _add_plugin(
    entry: str,
    load: Callable[[], object],
    items: dict[str, T],
    broken: dict[str, str],
    accepts: Callable[[object], bool],
    name_of: Callable[[T], str],
) -> None:
    try:
        loaded = load()
    except Exception as error:  # a plugin's import may raise anything, and must not take the others down
        broken[entry] = f"{type(error).__name__}: {error}"
        return
    values: list[T] = list(loaded) if isinstance(loaded, list | tuple) else [loaded]  # type: ignore[list-item]
    for value in values:
        if not accepts(value):
            broken[entry] = f"it gives an object of type {type(value).__name__}, which this group does not hold"
        elif name_of(value) in items:
            broken[entry] = f"the name {name_of(value)!r} is taken"
        else:
            items[name_of(value)] = value


def _is_mechanism(value: object) -> bool:
    return isinstance(value, Mechanism)


def _is_task(value: object) -> bool:
    return (
        not isinstance(value, type) and isinstance(getattr(value, "info", None), TaskInfo) and isinstance(value, Task)
    )


def _is_family(value: object) -> TypeGuard[TaskFamily]:
    return not isinstance(value, type) and isinstance(value, TaskFamily)

"""Mechanisms and tasks by name: built-in ones, found by walking their folders, those of plugins, and a session's own.

Nothing here imports torch. Plugins are found by their entry points. If a plugin cannot be loaded, the reason is kept
and is part of the error for its name. Objects that were made in a Python session, such as a notebook, are added with
`add_own`; the processes of its runs find them through the variable `OWN_OBJECTS`.
"""

from __future__ import annotations

import fnmatch
import importlib
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar, cast

from ..adapters.mechanisms.declaration import Mechanism
from ..results.names import GROUPS, UnknownNameError, UsageError, unknown_name
from ..tasks.base import Task, TaskFamily, TaskInfo
from ..tasks.own_data import Extension

PACKAGE = __name__.partition(".")[0]
ROOT = Path(__file__).resolve().parent.parent

_NO_TASK = (type, ModuleType)
"""Kinds of values that are no tasks. Reading an attribute of a module of `tasks/heavy.py` would import it."""

OWN_OBJECTS = "HEDGEBENCH_OWN_OBJECTS"
"""Variable that names a pickle of `OwnObject`s, which a Python session writes for the processes of its runs."""

T = TypeVar("T")


@dataclass(frozen=True)
class OwnObject:
    """A mechanism or a task that was made in a Python session.

    Attributes:
        value: The object.
        code: Digest of the object and of its code.
    """

    value: Mechanism | Task
    code: str

    @property
    def name(self) -> str:
        """The name in model specs or task names."""
        return self.value.name if isinstance(self.value, Mechanism) else self.value.info.name


_own: dict[tuple[bool, str], OwnObject] = {}
"""Own objects by whether they are mechanisms, and by name."""


@dataclass(frozen=True)
class Registry(Generic[T]):
    """Things by name, and why some plugins are missing.

    Attributes:
        what: What is registered, such as `model`.
        items: Everything usable.
        broken: Entry points that could not be loaded, with the reason.
        families: Makers of tasks that are too many to list, by the prefix of their names.
        code: Digests of the items that were made in a Python session, by name.
        plugins: Modules that declare the items of plugins, by name.
    """

    what: str
    items: Mapping[str, T]
    broken: Mapping[str, str] = field(default_factory=dict)
    families: Mapping[str, TaskFamily] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    plugins: Mapping[str, str] = field(default_factory=dict)

    def get(self, name: str, trust_code: bool = False) -> T:
        """The item of that name.

        Args:
            name: The name; of a family, it may be a file of the user's.
            trust_code: Whether code that such a file names may run, which some files do as soon as they are read.

        Raises:
            UnknownNameError: No item has the name, with the nearest names; or its plugin is broken, with the reason.
            UsageError: The name is a file that would run code, which is not trusted.
        """
        if name in self.items:
            return self.items[name]
        if name in self.broken:
            raise UnknownNameError(f"{self.what} {name!r} is a plugin that could not be loaded: {self.broken[name]}")
        if family := self.family(name):
            return cast(T, _of_family(family, name, trust_code))
        raise unknown_name(self.what, name, [*self.items, *(f"{prefix}NAME" for prefix in self.families)])

    def family(self, name: str) -> TaskFamily | None:
        """The family whose prefix the name begins with, if any."""
        return next((family for prefix, family in self.families.items() if name.startswith(prefix)), None)


def _of_family(family: TaskFamily, name: str, trust_code: bool) -> Task:
    """The task of a family; one in a file of the user's runs no code unless that is trusted."""
    file = Path(name.removeprefix(family.prefix))
    if not (file.suffix in (".yaml", ".yml") and file.is_file()):
        return family.get(name)
    from ..tasks.lm_eval.foreign_code import code_in

    code = [] if trust_code else code_in(file)
    if code:
        raise UsageError(f"{name!r} runs code ({', '.join(code[:3])}); read it, then pass --trust-remote-code")
    try:
        return family.get(name)
    except UsageError:
        raise
    except Exception as error:  # lm-eval has no error of its own for a file that is no task
        raise UsageError(f"{name!r} is no task of lm-eval: {type(error).__name__}: {error}") from error


@cache
def mechanisms() -> Registry[Mechanism]:
    """Every attention mechanism."""
    return _registry("model", "hedgebench.adapters", _modules("adapters/mechanisms"), _mechanism_name)


@cache
def tasks() -> Registry[Task]:
    """Every task, and the families that make tasks from names."""
    modules = list(_modules("tasks"))
    values = [value for module in modules for value in vars(module).values() if not isinstance(value, _NO_TASK)]
    extended = {id(value.extends) for value in values if isinstance(value, Extension)}

    def name_of(value: object) -> str | None:
        return None if id(value) in extended else _task_name(value)

    found: Registry[Task] = _registry("task", "hedgebench.tasks", modules, name_of)
    families = [value for value in values if isinstance(value, TaskFamily) and id(value) not in extended]
    return replace(found, families={family.prefix: family for family in families})


def add_own(own: OwnObject) -> None:
    """Makes an object known by its name, in place of an own one that had the name.

    Raises:
        UsageError: A built-in object or one of a plugin has the name.
    """
    is_mechanism = isinstance(own.value, Mechanism)
    known: Registry[Mechanism] | Registry[Task] = mechanisms() if is_mechanism else tasks()
    if own.name in known.items and own.name not in known.code:
        raise UsageError(f"{known.what} {own.name!r} exists already; give yours another name")
    _own[is_mechanism, own.name] = own
    (mechanisms if is_mechanism else tasks).cache_clear()


def own_objects() -> list[OwnObject]:
    """Every object that `add_own` has added, and those of the session that started this process."""
    return [*_handed_over(), *_own.values()]


@cache
def _handed_over() -> tuple[OwnObject, ...]:
    path = os.environ.get(OWN_OBJECTS)
    return pickle.loads(Path(path).read_bytes()) if path else ()


def task_names(pattern: str) -> Sequence[str]:
    """The names of the tasks that a name, a glob or the part of a name before `/` stands for.

    Globs match listed tasks, not those of families.

    Raises:
        UnknownNameError: No task has such a name.
    """
    known = tasks()
    if family := known.family(pattern):
        return family.expand(pattern)
    group = [n for n in known.items if n in GROUPS.get(pattern, (n,)) and n.startswith(f"{pattern}/")]
    return fnmatch.filter(known.items, pattern) or group or [known.get(pattern).info.name]


def _modules(folder: str) -> Iterator[ModuleType]:
    """Every module below a folder, in all of its rooms."""
    for file in sorted((ROOT / folder).rglob("*.py")):
        yield importlib.import_module(".".join((PACKAGE, *file.relative_to(ROOT).with_suffix("").parts)))


def _registry(
    what: str, group: str, modules: Iterable[ModuleType], name_of: Callable[[object], str | None]
) -> Registry[T]:
    """The objects of modules and of an entry-point group that `name_of` has a name for."""
    items: dict[str, T] = {}
    for module in modules:
        for value in vars(module).values():
            name = name_of(value)
            if name is not None and items.setdefault(name, value) is not value:
                raise RuntimeError(f"two built-in {what}s are named {name!r}")
    broken: dict[str, str] = {}
    plugins: dict[str, str] = {}
    for entry in sorted(entry_points(group=group), key=lambda entry: (entry.name, entry.value)):
        try:
            loaded = entry.load()
        except (Exception, SystemExit) as error:  # a plugin's import may do anything, and must not take others down
            broken[entry.name] = f"{type(error).__name__}: {error}"
            continue
        for value in loaded if isinstance(loaded, list | tuple) else [loaded]:
            name = name_of(value)
            if name is None:
                broken[entry.name] = (
                    f"it gives an object of type {type(value).__name__}, which this group does not hold"
                )
            elif name in items:
                broken[entry.name] = f"the name {name!r} is taken"
            else:
                items[name], plugins[name] = value, entry.module
    mine = {own.name: own for own in own_objects() if name_of(own.value)}
    items |= {name: cast(T, own.value) for name, own in mine.items()}
    code = {name: own.code for name, own in mine.items()}
    return Registry(what, dict(sorted(items.items())), broken, code=code, plugins=plugins)


def _mechanism_name(value: object) -> str | None:
    return value.name if isinstance(value, Mechanism) else None


def _task_name(value: object) -> str | None:
    info = None if isinstance(value, _NO_TASK) else getattr(value, "info", None)
    return info.name if isinstance(info, TaskInfo) and isinstance(value, Task) else None

"""The digest of an object that was made in a Python session: equal as long as the object and its code are.

It covers what pickling by value covers: classes and functions of `__main__` as they were compiled, the values that they
use, and an object's own state. Line numbers and file names do not count. What is imported from a package counts by its
name; a module of the user's own, which no package installed, counts by its source and that of what it imports.
"""

from __future__ import annotations

import dis
import hashlib
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import CellType, CodeType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any

from ..code_digest import digest_of
from ..registry import ROOT
from ..scoring_code import find_module

_ATOMS = (type(None), bool, int, float, complex, str, bytes, type(...), range)
_NOT_COMPUTED = frozenset({
    *("__module__", "__dict__", "__weakref__", "__doc__", "__firstlineno__", "__static_attributes__"),
    *("__qualname__", "__annotations__", "__annotate_func__", "__annotations_cache__"),
})  # fmt: skip
"""Attributes of classes that do not change what an object computes, or that Python makes anew."""


def own_code(value: object) -> str:
    """The digest of an object, 16 hex digits; it is the same in every process of one version of Python.

    Raises:
        TypeError: The object holds something that cannot be pickled, such as an open file.
    """
    total = hashlib.sha256()
    for part in _Walk().parts(value):
        total.update(f"{len(part)}:{part};".encode())
    return total.hexdigest()[:16]


@dataclass(frozen=True)
class _Walk:
    """A walk through all that an object consists of.

    Attributes:
        seen: Numbers of the objects met so far, by id, and the objects, so that no id is used twice.
    """

    seen: dict[int, tuple[int, object]] = field(default_factory=dict)

    def parts(self, value: Any) -> Iterator[str]:
        """Texts that describe a value, in a fixed order."""
        if isinstance(value, _ATOMS):
            yield f"{type(value).__name__} {value!r}"
            return
        if id(value) in self.seen:
            yield f"again {self.seen[id(value)][0]}"
            return
        self.seen[id(value)] = len(self.seen), value
        yield type(value).__name__
        match value:
            case ModuleType():
                yield value.__name__
            case CodeType():
                yield from self._code(value)
            case FunctionType():
                yield from self._reference(value) or self._function(value)
            case type():
                yield from self._reference(value) or self._class(value)
            case list() | tuple():
                yield from self._all(value)
            case set() | frozenset():
                yield from sorted("".join(_Walk().parts(item)) for item in value)
            case dict():
                yield from self._all(part for item in value.items() for part in item)
            case staticmethod() | classmethod():
                yield from self.parts(value.__func__)
            case cached_property():
                yield from self.parts(value.func)
            case property():
                yield from self._all((value.fget, value.fset, value.fdel))
            case CellType():
                yield from self.parts(_content(value))
            case MemberDescriptorType():
                yield value.__name__
            case _:
                yield from self._all(_reduced(value))

    def _all(self, values: Any) -> Iterator[str]:
        for value in values:
            yield from self.parts(value)
        yield "end"

    def _code(self, code: CodeType) -> Iterator[str]:
        yield code.co_code.hex()
        yield code.co_exceptiontable.hex()
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        yield from self._all((*names, code.co_flags, code.co_argcount, code.co_kwonlyargcount, code.co_consts))

    def _function(self, function: FunctionType) -> Iterator[str]:
        yield from self.parts(function.__code__)
        yield from self._all((function.__defaults__, function.__kwdefaults__, function.__closure__))
        known = function.__globals__
        yield from self.parts({name: known[name] for name in sorted(set(_globals(function.__code__))) if name in known})

    def _class(self, owner: type) -> Iterator[str]:
        yield owner.__qualname__
        yield from self._all((type(owner), *owner.__bases__))
        content: Mapping[str, Any] = vars(owner)
        yield from self.parts({name: content[name] for name in sorted(content) if name not in _NOT_COMPUTED})

    def _reference(self, value: FunctionType | type) -> list[str]:
        """The name of what an importable module holds, with a module's digest if it is the user's own; else empty."""
        module = sys.modules.get(value.__module__)
        found: Any = None if value.__module__ == "__main__" else module
        for name in value.__qualname__.split("."):
            found = getattr(found, name, None)
        if found is not value:
            return []
        return [f"{value.__module__}:{value.__qualname__}", _digest_if_own(getattr(module, "__file__", None))]


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return "an empty cell"


def _reduced(value: Any) -> tuple[Any, ...]:
    """What pickle makes an object from: a name, or a callable with arguments, state and items; a tensor's values."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return str(value.dtype), tuple(value.shape), value.requires_grad, flat.numpy().tobytes()
    reduced = value.__reduce_ex__(4)
    if isinstance(reduced, str):
        return type(value).__module__, reduced, getattr(value, "__wrapped__", None)
    return tuple(list(part) if isinstance(part, Iterator) else part for part in reduced)


def _globals(code: CodeType) -> Iterator[str]:
    """Names of the global variables that a function and those inside it read."""
    yield from (each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals(constant)


def _digest_if_own(file: str | None) -> str:
    if file is None:
        return ""
    path, installed = Path(file).resolve(), {Path(each).resolve() for each in sysconfig.get_paths().values()}
    is_known = any(path.is_relative_to(folder) for folder in (*installed, ROOT))
    return "" if is_known or path.suffix != ".py" else digest_of([path], find_module)

"""Digests of what modules compute: equal after a move, a new docstring or another spelling of an import.

A module is parsed into a syntax tree and written as text without docstrings, comments, annotations of functions and
import statements. Each name that an import binds is replaced by its target: a name of a library, or a definition in
another module, which counts by that module's own digest and not by its path. The text is the same on every version of
Python. Only the standard library is used.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

_LEFT_OUT = frozenset({"ctx", "kind", "type_comment", "type_ignores", "returns", "simple"})
"""Fields of syntax trees that do not change what a program computes."""

Find: TypeAlias = Callable[[tuple[str, ...], Path], Path | None]
"""Gives the file of a module, from its dotted name and the file that names it; None for a module of a library."""


@dataclass(frozen=True)
class _Target:
    """The target of an imported name: a followed module or a module of a library, or something in it.

    Attributes:
        module: The file of a followed module, or the dotted name of a module of a library.
        attributes: The names that lead from the module to the target.
    """

    module: Path | str
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Module:
    """The text of a module's tree, in which `⟨i⟩` stands for `targets[i]`, and the followed modules that it imports."""

    text: str
    targets: tuple[_Target, ...]
    imported: frozenset[Path]


def digest_of(roots: Iterable[Path], find: Find) -> str:
    """The digest of some modules and all that they import.

    Args:
        roots: Files of the modules.
        find: Gives the files of the modules that are followed.

    Returns:
        64 hexadecimal digits, which do not depend on the names and places of the files.
    """
    modules = {path: _read(path, find) for path in reachable(roots, find)}
    digests: Mapping[Path, str] = {path: _hash(module.text) for path, module in modules.items()}
    # Each round tells modules apart by modules one import further away; circles of imports need no special case.
    for _ in range(len(modules)):
        refined = {path: _hash(module.text, *_named(module, digests)) for path, module in modules.items()}
        is_settled = len(set(refined.values())) == len(set(digests.values()))
        digests = refined
        if is_settled:
            break
    return _hash(*sorted(digests.values()))


def reachable(roots: Iterable[Path], find: Find) -> frozenset[Path]:
    """The files of some modules and of all that they import, directly or through other modules."""
    found = set(roots)
    ahead = list(found)
    while ahead:
        new = _read(ahead.pop(), find).imported - found
        found |= new
        ahead += new
    return frozenset(found)


def _named(module: _Module, digests: Mapping[Path, str]) -> Iterator[str]:
    for target in module.targets:
        place = target.module if isinstance(target.module, str) else digests[target.module]
        yield ".".join((place, *target.attributes))


@cache
def _read(path: Path, find: Find) -> _Module:
    bound, imported = _imports(path, find)
    writer = _Writer({name: _followed(target, find) for name, target in bound.items()})
    text = writer.text(_parsed(path))
    ours = {target.module for target in writer.targets if isinstance(target.module, Path)}
    return _Module(text, tuple(writer.targets), frozenset(imported | ours) - {path})


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _imports(path: Path, find: Find) -> tuple[Mapping[str, _Target], frozenset[Path]]:
    """The target of each name that a module imports, and the followed modules among the imports."""
    bound: dict[str, _Target] = {}
    imported: set[Path] = set()
    for node in _running(_parsed(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                file = find(tuple(alias.name.split(".")), path)
                imported |= {file} if file else set()
                if alias.asname:
                    bound[alias.asname] = _Target(file or alias.name)
                else:
                    bound[alias.name.partition(".")[0]] = _Target(alias.name.partition(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            base = (*("",) * node.level, *(node.module.split(".") if node.module else ()))
            for alias in node.names:
                target = _target(base, alias.name, path, find)
                imported |= {target.module} if isinstance(target.module, Path) else set()
                bound[alias.asname or alias.name] = target
    return bound, frozenset(imported)


def _target(base: tuple[str, ...], name: str, path: Path, find: Find) -> _Target:
    if file := find((*base, name), path):
        return _Target(file)
    if file := find(base, path):
        return _Target(file, (name,))
    # A module of this package that is not followed counts by its name alone, wherever in the package it is.
    return _Target(".".join((*base, name)) if base[0] else f".{name}")


def _followed(target: _Target, find: Find) -> _Target:
    """The definition behind a target, if the module that the name is imported from imports it too."""
    seen = set()
    while isinstance(target.module, Path) and target.attributes and target not in seen:
        seen.add(target)
        bound, _ = _imports(target.module, find)
        if target.attributes[0] not in bound:
            break
        onward = bound[target.attributes[0]]
        target = _Target(onward.module, (*onward.attributes, *target.attributes[1:]))
    return target


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements but those under `if TYPE_CHECKING`, which never run."""
    ahead = [tree]
    while ahead:
        node = ahead.pop()
        yield node
        for name in ("orelse",) if _is_type_checking(node) else ("body", "orelse", "finalbody", "handlers", "cases"):
            below = getattr(node, name, ())
            ahead += below if isinstance(below, list) else ()


def _is_type_checking(node: ast.AST) -> bool:
    match node:
        case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
            return True
    return False


class _Writer:
    """Writes a tree as text in which imported names stand as places in `targets`, in the order they are met."""

    def __init__(self, bound: Mapping[str, _Target]) -> None:
        self.bound = bound
        self.targets: dict[_Target, int] = {}

    def text(self, value: object) -> str:
        """The text of a node, a list of nodes or a plain value."""
        match value:
            case list():
                return f"[{''.join(f'{self.text(item)},' for item in value if not _says_nothing(item))}]"
            case ast.Name() | ast.Attribute() if target := self._meant(value):
                return f"⟨{self.targets.setdefault(target, len(self.targets))}⟩"
            case ast.ClassDef():
                return self._node("ClassDef", {**_fields(value), "body": [_as_field(node) for node in value.body]})
            case ast.AnnAssign() if not isinstance(value, _Field):
                return self._node("Assign", {"targets": [value.target], "value": value.value})
            case ast.JoinedStr():
                return self._node("JoinedStr", {"values": _joined(value.values)})
            case ast.If() if _is_type_checking(value):
                return self.text(value.orelse)
            case ast.arg():
                return f"(arg {value.arg})"
            case ast.AST():
                return self._node(type(value).__name__, _fields(value))
        return f"{type(value).__name__}:{value!r}"

    def _node(self, kind: str, fields: Mapping[str, object]) -> str:
        said = {name: value for name, value in fields.items() if value is not None and value != []}
        return f"({kind}{''.join(f' {name}={self.text(value)}' for name, value in said.items())})"

    def _meant(self, node: ast.expr) -> _Target | None:
        """The target of an imported name, or of a module's name with the attributes behind it."""
        attributes: list[str] = []
        while isinstance(node, ast.Attribute):
            attributes.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id not in self.bound:
            return None
        target, path = self.bound[node.id], (*self.bound[node.id].attributes, *reversed(attributes))
        return (
            _Target(".".join((target.module, *path)))
            if isinstance(target.module, str)
            else _Target(target.module, path)
        )


class _Field(ast.AnnAssign):
    """A field of a class, whose annotation counts: dataclasses read it."""


def _as_field(node: ast.stmt) -> ast.AST:
    if not isinstance(node, ast.AnnAssign):
        return node
    annotation = node.annotation
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    return _Field(node.target, annotation, node.value, node.simple)


def _fields(node: ast.AST) -> dict[str, object]:
    return {name: getattr(node, name, None) for name in node._fields if name not in _LEFT_OUT}


def _joined(values: list[ast.expr]) -> list[ast.expr]:
    """Parts of an f-string, neighbouring texts joined: versions of Python split them differently."""
    found: list[ast.expr] = []
    for value in values:
        last = found[-1] if found else None
        if isinstance(value, ast.Constant) and isinstance(last, ast.Constant):
            found[-1] = ast.Constant(str(last.value) + str(value.value))
        elif not (isinstance(value, ast.Constant) and value.value == ""):
            found.append(value)
    return found


def _says_nothing(node: object) -> bool:
    """Whether a statement is left out: an import, whose names are resolved at their uses, or a bare string."""
    match node:
        case _Field():
            return False
        case ast.Import() | ast.ImportFrom() | ast.AnnAssign(value=None) | ast.Expr(value=ast.Constant(value=str())):
            return True
        case ast.If(orelse=[]):
            return _is_type_checking(node)
    return False


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()

"""Typed settings: a task states its settings as a frozen dataclass and reads them back from a mapping."""

from __future__ import annotations

import typing
from typing import Any, TypeVar

from ..adapters.base import Settings
from ..results.names import unknown_name

Kind = TypeVar("Kind")


def as_settings(values: Any) -> Settings:
    """The fields of a settings dataclass, as the mapping that `TaskScale.settings` holds."""
    return dict(vars(values))


def parse_settings(kind: type[Kind], settings: Settings) -> Kind:
    """The settings dataclass that `settings` describes; what is missing takes the dataclass's default.

    Args:
        kind: A dataclass whose fields are `int`, `float`, `str`, `bool`, `tuple[int, ...]` or a union with None.
        settings: Values by name; a list stands for a tuple and an int for a float.

    Raises:
        ValueError: A name is unknown, a value has the wrong type, or the dataclass refuses it.
    """
    hints = typing.get_type_hints(kind)
    return kind(**{name: _checked(name, value, hints) for name, value in settings.items()})


def _checked(name: str, value: Any, hints: dict[str, Any]) -> Any:
    if name not in hints:
        raise unknown_name("setting of this task", name, hints)
    for allowed in typing.get_args(hints[name]) if _is_union(hints[name]) else (hints[name],):
        if _matches(value, allowed):
            return _converted(value, allowed)
    wanted = hints[name].__name__ if isinstance(hints[name], type) else str(hints[name])
    raise ValueError(f"setting {name} is {value!r}; it takes {wanted}")


def _is_union(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)


def _matches(value: Any, allowed: Any) -> bool:
    if typing.get_origin(allowed) is tuple:
        return isinstance(value, list | tuple) and all(_matches(item, int) for item in value)
    if isinstance(value, bool):
        return allowed is bool
    return isinstance(value, int | float if allowed is float else allowed)


def _converted(value: Any, allowed: Any) -> Any:
    if typing.get_origin(allowed) is tuple:
        return tuple(value)
    return float(value) if allowed is float else value

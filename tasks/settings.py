"""Typed settings: a task states its settings as a frozen dataclass and reads them back from a mapping."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from ..adapters.base import Settings
from ..results.names import unknown_name

Kind = TypeVar("Kind")


def as_settings(values: Any) -> Settings:
    """The fields of a settings dataclass, as the mapping that `TaskScale.settings` holds."""
    return dict(vars(values))


def parse_settings(kind: type[Kind], settings: Settings) -> Kind:
    """The settings dataclass that `settings` describes; a missing name takes the dataclass's default.

    Args:
        kind: A dataclass whose fields are `int`, `float`, `str`, `bool`, `tuple[int, ...]` or a union with None.
        settings: Values by name; a list stands for a tuple and an int for a float.

    Raises:
        ValueError: A name is unknown, a value has the wrong type, or the dataclass refuses it.
    """
    types = typing.get_type_hints(kind)
    hints = {each.name: types[each.name] for each in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: _checked(name, value, hints) for name, value in settings.items()})


def check_ranges(settings: Any, ranges: Mapping[str, tuple[float, float | None]]) -> None:
    """Checks that settings are within ranges, both ends included.

    Args:
        settings: A settings dataclass; a setting that is None has no range.
        ranges: The least and the largest value by name; None for no largest value.

    Raises:
        ValueError: A setting is outside its range.
    """
    for name, (least, most) in ranges.items():
        value, usual = getattr(settings, name), getattr(type(settings), name, None)
        if value is not None and not _within(value, least, most):
            allowed = f"{least} or more" if most is None else f"{least} to {most}"
            example = f", such as {usual}" if usual is not None and _within(usual, least, most) else ""
            raise ValueError(f"{name} is {value}; allowed: {allowed}{example}")


def _within(value: float, least: float, most: float | None) -> bool:
    return value >= least and (most is None or value <= most)


def _checked(name: str, value: Any, hints: dict[str, Any]) -> Any:
    import msgspec

    if name not in hints:
        raise unknown_name("setting of this task", name, hints)
    try:
        return msgspec.convert(value, hints[name])
    except msgspec.ValidationError:
        wanted = hints[name].__name__ if isinstance(hints[name], type) else str(hints[name])
        raise ValueError(f"setting {name} is {value!r}; it takes {wanted}") from None

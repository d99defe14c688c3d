"""Settings of a cell: defaults of backbone, recipe and task, and what `--set` changes in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..adapters.base import Settings, Value
from ..results.names import unknown_name
from .config import UsageError

Groups = Mapping[str, Settings]
"""Settings by group: `task`, `backbone`, and each stage of the recipe."""


def apply_overrides(groups: Groups, overrides: Mapping[str, str]) -> dict[str, dict[str, Value]]:
    """The settings with the overrides that concern them; the others are left for other cells.

    A key is `GROUP.KEY`; a bare `KEY` belongs to the task.

    Raises:
        UsageError: A value of the wrong type.
    """
    changed = {group: dict(values) for group, values in groups.items()}
    for key, text in overrides.items():
        group, _, name = key.rpartition(".")
        target = changed.get(group or "task", {})
        if name in target:
            target[name] = parse_value(key, text, target[name])
    return changed


def check_overrides(overrides: Iterable[str], cells: Iterable[Groups]) -> None:
    """Sees to it that every override changes some cell.

    Raises:
        UsageError: A key that no cell of the run has, with the nearest that exist.
    """
    known = {
        f"{group}.{name}" if group != "task" else name
        for cell in cells
        for group, values in cell.items()
        for name in values
    }
    known |= {f"task.{name}" for name in known if "." not in name}
    for key in overrides:
        if key not in known:
            raise UsageError(str(unknown_name("setting", key, known)))


def parse_value(key: str, text: str, default: Value) -> Value:
    """`text` as the type of `default`; where the default is None, as a number if it is one.

    Raises:
        UsageError: Not of that type.
    """
    if text == "none":
        return None
    try:
        return _convert(text, default)
    except ValueError:
        kind = "a list of whole numbers" if isinstance(default, tuple) else type(default).__name__
        raise UsageError(f"setting {key} is {text!r}; allowed: {kind}") from None


def _convert(text: str, default: Value) -> Value:
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise ValueError(text)
        return text == "true"
    if isinstance(default, tuple):
        return _parse_tuple(text, default)
    if default is None:
        return _guess(text)
    return type(default)(text)


def _parse_tuple(text: str, default: tuple[Value, ...]) -> Value:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    kind = type(default[0]) if default else int
    return tuple(kind(part) for part in parts)  # type: ignore[arg-type, misc]


def _guess(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text

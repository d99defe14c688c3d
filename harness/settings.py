"""Settings of a cell: defaults of backbone, recipe and task, and what `--set` changes in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

from ..adapters.base import Settings, Value
from ..results.names import UnknownNameError, UsageError, unknown_name
from .config import split_list

Groups = Mapping[str, Settings]
"""Settings by group: `task`, `backbone`, and each stage of the recipe."""

_COUNTS = {
    "task": ("context_length", "batch_size"),
    "backbone": ("layers", "heads", "kv_heads", "width", "mlp_width", "patch_size"),
}
"""Settings by group that are whole numbers from 1 wherever they are numbers."""


def apply_overrides(groups: Groups, overrides: Mapping[str, str]) -> dict[str, dict[str, Value]]:
    """The settings with the overrides of keys that they have; keys of other cells are ignored.

    A key is `GROUP.KEY`; a bare `KEY` belongs to the task. A stage whose `steps` are given trains for these, whatever
    epochs are its default.

    Raises:
        UsageError: A value has the wrong type.
    """
    changed = {group: dict(values) for group, values in groups.items()}
    for key, text in overrides.items():
        group, _, name = key.rpartition(".")
        target = changed.get(group or "task", {})
        if name in target:
            target[name] = parse_value(key, text, target[name], takes_none=group in ("", "task"))
        if name == "steps" and "epochs" in target and f"{key.removesuffix(name)}epochs" not in overrides:
            target["epochs"] = 0.0
    return changed


def check_overrides(overrides: Iterable[str], cells: Iterable[Groups]) -> None:
    """Checks that every override changes some cell.

    Raises:
        UsageError: No cell of the run has a key; the message has the groups that have it, or the nearest keys and those
            of the key's group.
    """
    names = {(group, name) for cell in cells for group, values in cell.items() for name in values}
    known = {f"{group}.{name}" for group, name in names} | {name for group, name in names if group == "task"}
    for key in overrides:
        if key not in known:
            name = key.rpartition(".")[2]
            if homes := sorted(f"{group}.{each}" for group, each in names if each == name and group != "task"):
                raise UsageError(f"unknown setting {key!r}; did you mean {' or '.join(homes)}?")
            whole, given = str(unknown_name("setting", key, known)), key.rpartition(".")[0] or "task"
            of_group = [f"{group}.{each}" for group, each in names if group == given != "task"]
            of_task = [each for group, each in names if group == "task"]
            others = {f"{group}.KEY" for group, _ in names if group != "task"}
            allowed = sorted(of_group) or [*sorted(of_task), *sorted(others)]
            raise UnknownNameError(f"{whole.partition(' (allowed: ')[0]} (allowed: {', '.join(allowed)})")


def check_counts(group: str, settings: Settings) -> None:
    """Checks those settings of `task` or `backbone` that count something.

    Raises:
        UsageError: One is below 1.
    """
    for name in _COUNTS[group]:
        count = settings.get(name)
        if isinstance(count, int) and count < 1:
            raise UsageError(f"{group}.{name} is {count}; allowed: a whole number from 1")


def check_sizes(backbone: Settings) -> None:
    """Checks the sizes of a backbone that is trained from scratch, as far as they do not depend on the data.

    Raises:
        UsageError: A size is below 1 or does not divide another, or a dropout is no probability below 1.
    """
    check_counts("backbone", backbone)
    if not 0 <= float(str(backbone["dropout"])) < 1:
        raise UsageError(f"backbone.dropout is {backbone['dropout']}; allowed: from 0 to below 1")
    for name, part in (("width", "heads"), ("heads", "kv_heads")):
        size, parts = int(str(backbone[name])), int(str(backbone[part]))
        if size % parts:
            raise UsageError(f"backbone.{name} is {size}; allowed with backbone.{part}={parts}: its multiples")


def parse_value(key: str, text: str, default: Value, takes_none: bool = True) -> Value:
    """`text` as the type of `default`; `none` is None. If the default is None, a number if it is one, else the text.

    Args:
        key: Names the setting in messages.
        text: The value as written.
        default: The setting's default.
        takes_none: Whether `none` is allowed where the default is another value: a task checks its own settings.

    Raises:
        UsageError: The text is not of that type.
    """
    if text == "none" and (takes_none or default is None):
        return None
    try:
        return _convert(text, default)
    except ValueError:
        kind = "a list of whole numbers" if isinstance(default, tuple) else type(default).__name__
        raise UsageError(f"setting {key} is {text!r}; allowed: {kind}") from None


def _convert(text: str, default: Value) -> Value:
    match default:
        case bool():
            if text not in ("true", "false"):
                raise ValueError(text)
            return text == "true"
        case tuple():
            kind = type(default[0]) if default else int
            return tuple(kind(part) for part in split_list(text))
        case None:
            for number in (int, float):
                with suppress(ValueError):
                    return number(text)
            return text
    return type(default)(text)

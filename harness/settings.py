"""Settings of a cell: defaults of backbone, recipe and task, and what `--set` changes in them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any

from ..adapters.backbone import WEIGHT_TYPES, Backbone
from ..adapters.base import Settings, Value
from ..adapters.scratch.transformer_config import TransformerConfig
from ..results.names import UnknownNameError, UsageError, unknown_name
from .config import split_list

Groups = Mapping[str, Settings]
"""Settings by group: `task`, `backbone`, and each stage of the recipe."""


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


def check_unfixed(overrides: Iterable[str], tasks: Collection[tuple[Settings, Collection[str]]]) -> None:
    """Refuses overrides of a setting that every task with it has in its name or in the file that declares it.

    Args:
        overrides: Keys of the overrides.
        tasks: The settings of each task, and the keys that its name or its file sets.

    Raises:
        UsageError: There is such an override, which would change nothing.
    """
    for key in overrides:
        name = key.removeprefix("task.")
        are_set = [name in own for settings, own in tasks if name in settings]
        if are_set and all(are_set):
            raise UsageError(
                f"--set {key} changes nothing: every task that has this setting has it in its name or in the file that "
                "declares it, which win; change it there"
            )


def check_backbone(backbone: Backbone, settings: Settings) -> None:
    """Refuses settings that no model of a backbone can have, as far as they depend on no task.

    Raises:
        UsageError: Sizes that do not fit each other, or an unknown type of weights.
    """
    if backbone.checkpoint is not None:
        if settings["weights"] not in WEIGHT_TYPES:
            raise unknown_name("backbone.weights", str(settings["weights"]), WEIGHT_TYPES)
        return
    sizes: dict[str, Any] = {**settings, "context_length": 1, "causal": backbone.name == "gpt"}
    try:
        TransformerConfig(**sizes)
    except ValueError as error:
        raise UsageError(f"backbone {backbone.name}: {error}") from error


def check_counts(task: Settings) -> None:
    """Checks those settings of a task that count something, wherever they are numbers.

    Raises:
        UsageError: One is below 1.
    """
    for name in ("context_length", "batch_size"):
        count = task.get(name)
        if isinstance(count, int) and count < 1:
            raise UsageError(f"task.{name} is {count}; allowed: a whole number from 1")


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

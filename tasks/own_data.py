"""Tasks on data of the user's: what the harness asks of them beside what it asks of every task, and what they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, Protocol, runtime_checkable

from ..adapters.base import Settings
from ..results.record import DataIdentity
from .base import Sources, Task, TaskFamily, TaskInfo
from .data.own_rows import OwnData

NOTHING_TRAINED = ("zero-shot",)
"""Recipes of data without a training split."""


@runtime_checkable
class Decided(Protocol):
    """A task whose declaration depends on its settings, or on the data that they name."""

    def decided(self, settings: Settings, data: DataIdentity | None) -> Task:
        """The task that runs, with its main metric and its recipes.

        Args:
            settings: The task's settings; a cell leaves out those that the returned task does not have.
            data: The data; None before they are looked for.
        """
        ...


@runtime_checkable
class Extension(Protocol):
    """A task or a family that takes the place of another of the same name, to which it adds."""

    @property
    def extends(self) -> Task | TaskFamily:
        """The other."""
        ...


def with_recipes(info: TaskInfo, data: DataIdentity | None, named: Callable[[], OwnData]) -> TaskInfo:
    """A declaration with the recipes that suit the data: without a training split, those that train nothing.

    Args:
        info: The declaration.
        data: The data; None before they are looked for.
        named: Gives the name of the data; its errors are left to the task's `identify`.
    """
    try:
        found = data.splits if data is not None else named().local_files()
    except ValueError:
        return info
    return replace(info, recipes=NOTHING_TRAINED) if found and "train" not in found else info


def check_pretrained(data: str, sources: Sources) -> None:
    """Refuses data without a training split for a model from scratch.

    Raises:
        ValueError: As above.
    """
    if sources.tokenizer is None:
        raise ValueError(
            f"{data} has no training split that is read, and the backbone is trained from scratch; choose a pretrained "
            "one, such as smollm2-135m or minilm-l6, or a folder with train and test files"
        )


def settings_for(kind: type[Any], chosen: Any) -> dict[str, Any]:
    """Those of some settings that a dataclass of fewer settings has."""
    return {each.name: getattr(chosen, each.name) for each in fields(kind)}

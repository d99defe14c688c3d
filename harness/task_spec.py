"""Task specs: `NAME[:KEY=VALUE]...`, a task with settings in its name, which `--set` does not change.

The settings become part of the task's name in records and tables, so that one run can hold a task with several
settings: `summarization:dataset=ORG/NAME:source=COLUMN:target=COLUMN`, or `wikitext2:stride=64` beside `wikitext2`. A
value that holds a colon or a comma has to be given with `--set`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..adapters.base import Settings, Value
from ..adapters.spec import SpecError, parse_pairs
from ..results.names import unknown_name
from ..tasks.base import Task
from . import registry
from .settings import parse_value

if TYPE_CHECKING:
    from ..results.report.sections import TaskText


@dataclass(frozen=True)
class TaskSpec:
    """A task's name, or a glob of names, with settings.

    Attributes:
        name: The name or glob.
        given: Settings as written in the spec.
    """

    name: str
    given: Mapping[str, str]

    def canonical(self, name: str) -> str:
        """The spec of one task that the glob matches, settings sorted: equal tasks have equal names."""
        return name + "".join(f":{key}={value}" for key, value in sorted(self.given.items()))

    def apply(self, settings: Settings) -> dict[str, Value]:
        """A task's settings with those of the spec.

        Raises:
            UsageError: The task has no such setting, or the setting takes no such value.
        """
        for key in self.given:
            if key not in settings:
                raise unknown_name(f"setting of task {self.name}", key, settings)
        own = {key: parse_value(f"{self.name}:{key}", text, settings[key]) for key, text in self.given.items()}
        return {**settings, **own}


def parse_task_spec(text: str) -> TaskSpec:
    """The task spec that `text` holds.

    Raises:
        SpecError: The text does not have the form of a task spec.
    """
    name, *pairs = text.split(":")
    if not name:
        raise SpecError(f"task {text!r} is not of the form NAME[:KEY=VALUE]...")
    return TaskSpec(name, parse_pairs(pairs, f"task {text!r}"))


def task_of(name: str) -> Task:
    """The task that a record names; the settings in the name are ignored.

    Raises:
        UnknownNameError: There is no such task.
    """
    return registry.tasks().get(name.partition(":")[0])


def task_texts(names: Iterable[str]) -> dict[str, TaskText]:
    """What tasks say of themselves, for reports; tasks of families and tasks that no longer exist are left out."""
    from ..results.report.sections import TaskText

    known = registry.tasks().items
    tasks = (known[plain].info for plain in sorted({name.partition(":")[0] for name in names}) if plain in known)
    return {info.name: TaskText(info.summary, info.citation, info.data) for info in tasks}

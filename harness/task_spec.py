"""Task specs: `NAME[:KEY=VALUE]...`, a task with settings in its name, which `--set` does not change.

The settings become part of the task's name in records and tables, so that one run can hold a task with several
settings: `summarization:dataset=ORG/NAME:source=COLUMN:target=COLUMN`, or `wikitext2:stride=64` beside `wikitext2`. A
value that holds a colon or a comma has to be given with `--set`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..adapters.base import Settings, Value
from ..adapters.spec import SpecError, parse_pairs
from ..results.names import unknown_name
from ..tasks.base import Task
from . import registry
from .settings import parse_value

_LM_EVAL = "lm_eval/"
"""Prefix of tasks of lm-eval."""


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
        SpecError: The text does not have the form of a task spec, or names a YAML file that does not exist.
    """
    name, *pairs = text.split(":")
    if not name:
        raise SpecError(f"task {text!r} is not of the form NAME[:KEY=VALUE]...")
    if name.endswith((".yaml", ".yml")):
        _check_file(name)
    return TaskSpec(name, parse_pairs(pairs, f"task {text!r}"))


def _check_file(name: str) -> None:
    """Checks that the YAML file of a task exists; otherwise its name would be looked up among those of lm-eval."""
    path = name.removeprefix(_LM_EVAL)
    if not Path(path).expanduser().is_file():
        raise SpecError(f"task {name!r}: there is no file {path!r} in {str(Path.cwd())!r}")
    if not name.startswith(_LM_EVAL):
        raise SpecError(f"task {name!r} is a file of lm-eval's form; name it {_LM_EVAL}{name}")


def task_of(name: str) -> Task:
    """The task that a record names; the settings in the name are ignored.

    Raises:
        UnknownNameError: There is no such task.
    """
    return registry.tasks().get(name.partition(":")[0])

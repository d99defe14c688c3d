"""Task specs: `NAME[:KEY=VALUE]...`, a task with settings in its name, which `--set` does not change.

The settings become part of the task's name in records and tables, so that one run can hold a task with several
settings: `summarization:dataset=ORG/NAME:source=COLUMN:target=COLUMN`, or `wikitext2:stride=64` beside `wikitext2`. A
value that holds a colon or a comma has to be given with `--set`.

A TOML file declares tasks under names of their own: `FILE.toml` is all of them, `FILE.toml:NAME[:KEY=VALUE]...` one.
Each is a table with its `task` and settings of it; a `file` is looked for from the folder of the TOML file:

    [tickets]
    task = "classification"
    file = "tickets.jsonl"
    text = "subject+body"

It is `classification:tickets` in records and tables: its content counts, and not where it lies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters.base import Settings, Value
from ..adapters.spec import SpecError, parse_pairs
from ..results.names import UsageError, unknown_name
from ..results.record import DataIdentity
from ..tasks.base import Task
from ..tasks.own_data import Decided
from . import registry
from .config import as_text, read_toml, split_list
from .settings import parse_value

if TYPE_CHECKING:
    from ..results.report.sections import TaskText

TOML = ".toml"
"""Ending of files that declare tasks."""

_TITLE = re.compile(r"[\w-]+")
_EVALUATE = "evaluate:"
LM_EVAL = "lm_eval/"
"""Prefix of tasks of lm-eval."""


@dataclass(frozen=True)
class TaskSpec:
    """A task's name, or a glob of names, with settings.

    Attributes:
        name: The name or glob.
        given: Settings as written in the spec.
        title: The name that a file declares the task under; empty if none does.
        declared: Settings that the file declares, which those of the spec override.
    """

    name: str
    given: Mapping[str, str]
    title: str = ""
    declared: Mapping[str, str] = field(default_factory=dict)

    def canonical(self, name: str) -> str:
        """The spec of one task that the glob matches, settings sorted: equal tasks have equal names."""
        title = [f":{self.title}"] if self.title else []
        return name + "".join([*title, *(f":{key}={value}" for key, value in sorted(self.given.items()))])

    def apply(self, settings: Settings) -> dict[str, Value]:
        """A task's settings with those of the spec.

        Raises:
            UsageError: The task has no such setting, or the setting takes no such value.
        """
        given = {**self.declared, **self.given}
        where = f"{self.name}:{self.title}" if self.title else self.name
        for key in given:
            if key not in settings:
                raise unknown_name(f"setting of task {where}", key, settings)
        own = {key: parse_value(f"{where}:{key}", text, settings[key]) for key, text in given.items()}
        return {**settings, **own}


def parse_task_specs(text: str, trust_code: bool = False) -> list[TaskSpec]:
    """The task specs that `text` stands for: one, or those that a TOML file declares.

    Args:
        text: The specs as written.
        trust_code: Whether code that a task's file names may run.

    Raises:
        SpecError: The text does not have the form of a task spec.
        UsageError: The file cannot be read, or declares something else than tasks.
    """
    name, *parts = text.split(":")
    if not name.endswith(TOML):
        return [parse_task_spec(text)]
    declared = _declared(Path(name).expanduser(), trust_code)
    title = parts.pop(0) if parts and "=" not in parts[0] else ""
    if title and title not in declared:
        raise unknown_name(f"task in {name}", title, declared)
    given = parse_pairs(parts, f"task {text!r}")
    chosen = {title: declared[title]} if title else declared
    return [TaskSpec(task, given, each, settings) for each, (task, settings) in chosen.items()]


def declares_tasks(path: Path) -> bool:
    """Whether a file is TOML with a table that names its `task`; pyproject.toml, for example, has none."""
    try:
        tables = read_toml(path, "tasks from").values()
    except UsageError:
        return False
    return any(isinstance(table, dict) and isinstance(table.get("task"), str) for table in tables)


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
    path = name.removeprefix(LM_EVAL)
    if not Path(path).expanduser().is_file():
        raise SpecError(f"task {name!r}: there is no file {path!r} in {str(Path.cwd())!r}")
    if not name.startswith(LM_EVAL):
        raise SpecError(f"task {name!r} is a file of lm-eval's form; name it {LM_EVAL}{name}")


def task_of(name: str, settings: Settings, data: DataIdentity | None = None, trust_code: bool = False) -> Task:
    """The task that a record names, as its settings and its data decide; the settings in the name are ignored.

    Raises:
        UnknownNameError: There is no such task.
        UsageError: The task or its settings would run code, and `trust_code` is false.
    """
    if not trust_code:
        refuse_scripts(name, settings)
    return decided(registry.tasks().get(name.partition(":")[0], trust_code), settings, data)


def refuse_scripts(name: str, settings: Settings) -> None:
    """Refuses settings of a task that name a local script of the package `evaluate`.

    Raises:
        UsageError: A setting names one.
    """
    for value in settings.values():
        for part in split_list(value) if isinstance(value, str) else ():
            if part.startswith(_EVALUATE) and "/" in part:
                raise UsageError(
                    f"task {name} has the metric {part!r}, a script that runs when it is loaded; read it, then pass "
                    "--trust-remote-code"
                )


def decided(task: Task, settings: Settings, data: DataIdentity | None = None) -> Task:
    """A task as its settings and its data decide.

    Raises:
        ValueError: The task does not take a setting.
    """
    return task.decided(settings, data) if isinstance(task, Decided) else task


def _declared(path: Path, trust_code: bool) -> dict[str, tuple[str, dict[str, str]]]:
    """The task and the settings of each name that a file declares.

    Raises:
        UsageError: There is no such file, it is not TOML, or it declares something else than tasks.
    """
    if not path.is_file():
        beside = [each.name for each in path.parent.glob(f"*{TOML}")]
        raise unknown_name(f"file of tasks in {path.parent.resolve()}", path.name, beside)
    tables = read_toml(path, "tasks from")
    if not tables:
        raise UsageError(f"{str(path)!r} declares no task; a task is a table, such as [tickets], with its `task`")
    return {title: _task_in(table, title, path, trust_code) for title, table in tables.items()}


def _task_in(table: Any, title: str, path: Path, trust_code: bool) -> tuple[str, dict[str, str]]:
    if not (isinstance(table, dict) and isinstance(table.get("task"), str) and _TITLE.fullmatch(title)):
        raise UsageError(
            f"{title!r} in {str(path)!r} declares no task; a task is a table named in letters, digits, - and _, with "
            'its `task`, such as task = "classification"'
        )
    if nested := [key for key, value in table.items() if isinstance(value, dict)]:
        raise UsageError(f"{title}.{nested[0]} in {str(path)!r} is a table; allowed: settings of the task")
    settings = {key: as_text(value) for key, value in table.items() if key != "task"}
    if "file" in settings:
        settings["file"] = str(path.parent.resolve() / Path(settings["file"]).expanduser())
    name: str = table["task"]
    return registry.tasks().get(name, trust_code).info.name, settings


def task_texts(names: Iterable[str]) -> dict[str, TaskText]:
    """What tasks say of themselves, for reports; tasks of families and tasks that no longer exist are left out."""
    from ..results.report.sections import TaskText

    known = registry.tasks().items
    tasks = (known[plain].info for plain in sorted({name.partition(":")[0] for name in names}) if plain in known)
    return {info.name: TaskText(info.summary, info.citation, info.data) for info in tasks}

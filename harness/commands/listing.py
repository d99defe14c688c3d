"""`bench list`: models, tasks, backbones, recipes and suites, a line for each, and a page on a single one."""

from __future__ import annotations

import fnmatch
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...adapters.backbone import BACKBONES, Backbone
from ...results.names import GROUPS, UsageError, unknown_name
from ...tasks.base import Task
from .. import registry
from ..recipes import RECIPES
from ..suites import SUITES
from ..task_spec import TOML, TaskSpec, decided, declares_tasks, parse_task_specs

Rows: TypeAlias = list[dict[str, Any]]

_TASKS = f"{registry.PACKAGE}.tasks."


def listing(what: str, pattern: str = "") -> tuple[Rows, list[str]]:
    """Rows of a listing, JSON-ready, and a message for each plugin that is not usable.

    Args:
        what: `models`, `tasks`, `backbones`, `recipes` or `suites`.
        pattern: A name, a glob, the part of a task's name before `/`, or a file that declares tasks; empty for every
            row, and for the tasks that files in this folder declare.

    Raises:
        UsageError: Nothing has such a name, or the file does not declare tasks.
    """
    broken: Mapping[str, str] = {}
    if what in ("models", "tasks"):
        broken = registry.mechanisms().broken if what == "models" else registry.tasks().broken
    told = {name: f"plugin {name!r} is not usable: {reason}" for name, reason in broken.items()}
    problems = [*told.values()]
    if what == "tasks" and pattern.partition(":")[0].endswith(TOML):
        return _declared_rows(pattern), problems
    listed = LISTINGS[what]()
    for path in sorted(Path().glob(f"*{TOML}")) if what == "tasks" and not pattern else ():
        if declares_tasks(path):
            try:
                listed += _declared_rows(path.name)
            except UsageError as error:
                problems.append(f"{path} is not usable: {error}")
    rows = {row[what.removesuffix("s")]: row for row in listed}
    if not pattern:
        return list(rows.values()), problems
    group = [name for name in rows if name in GROUPS.get(pattern, (name,)) and name.startswith(f"{pattern}/")]
    chosen = fnmatch.filter(rows, pattern) or group
    if not chosen and what == "tasks" and registry.tasks().family(pattern):
        return [_task_row(registry.tasks().get(pattern))], problems
    if not chosen and pattern in told:
        raise UsageError(told[pattern])
    if not chosen:
        raise unknown_name(what.removesuffix("s"), pattern, rows)
    return [rows[name] for name in chosen], problems


def print_lines(rows: Rows, console: Console) -> None:
    """Prints the name and the summary of each row in one line, cut at the console's width; tasks by room."""
    name = next(iter(rows[0]))
    for room in sorted({row.get("room", "") for row in rows}):
        within = [row for row in rows if row.get("room", "") == room]
        about = _common_subject([row["summary"] for row in within])
        if room:
            title = room if room.endswith(TOML) else room.replace("_", " ")
            console.print(Text(title + (f" ({about})" if about and about.lower() != room else ""), style="bold"))
        width = max(len(row[name]) for row in within)
        for row in within:
            summary = row["summary"].removeprefix(f"{about}: ")
            line = Text(f"{'  ' if room else ''}{row[name]:{width}}  {summary}")
            line.truncate(console.width, overflow="ellipsis")
            console.print(line, no_wrap=True)


def _common_subject(summaries: Sequence[str]) -> str:
    """What all of several summaries have before a colon; empty if they differ in it."""
    subjects = {summary.partition(": ")[0] for summary in summaries}
    return subjects.pop() if len(subjects) == 1 < len(summaries) else ""


def print_listing(rows: Rows, console: Console) -> None:
    """Prints a table with all that is known of each row; lists and mappings in a cell are written out."""
    table = Table(box=box.SIMPLE_HEAD)
    for column in rows[0] if rows else ("nothing",):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(written_out(value) for value in row.values()))
    console.print(table, markup=False)


def written_out(value: object) -> str:
    """A value as text; lists and mappings with commas."""
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _models() -> Rows:
    return [
        {
            "model": mechanism.name,
            "summary": mechanism.summary,
            "options": {
                key: "|".join(option.choices) or option.kind.__name__ for key, option in mechanism.options.items()
            },
            "source": mechanism.source,
        }
        for mechanism in registry.mechanisms().items.values()
    ]


def _tasks() -> Rows:
    known = registry.tasks()
    rows: Rows = [_task_row(task) for task in known.items.values()]
    nothing = {"main metric": "", "data": [], "backbone": "", "recipes": [], "licence": ""}
    for family in known.families.values():
        room = family.prefix.rstrip("/")
        named = {"task": f"{family.prefix}NAME", "summary": family.summary}
        rows.append({**named, **nothing, "data": list(family.data), "room": room})
    return rows


def _task_row(task: Task) -> dict[str, Any]:
    info = task.info
    return {
        "task": info.name,
        "summary": info.summary,
        "main metric": info.main_metric,
        "data": list(info.data),
        "backbone": info.backbone,
        "recipes": list(info.recipes),
        "licence": info.licence,
        "room": room_of(task),
    }


def _declared_rows(text: str) -> Rows:
    """The tasks of a file, as their settings and no data decide; the room is the file.

    Raises:
        UsageError: The file is wrong, or a task does not take one of its settings.
    """
    file, rows = text.partition(":")[0], []
    for spec in parse_task_specs(text):
        settings = {**spec.declared, **spec.given}
        summary = ", ".join(f"{key}={Path(value).name if key == 'file' else value}" for key, value in settings.items())
        named = {"task": f"{file}:{spec.title}", "summary": f"{spec.name}: {summary}"}
        data = [settings[key] for key in ("file", "dataset") if key in settings]
        row = _task_row(declared_task(spec))
        rows.append({**row, **named, "data": data or row["data"], "room": file})
    return rows


def declared_task(spec: TaskSpec) -> Task:
    """A declared task as its settings decide, before data are looked for.

    Raises:
        UsageError: It does not take one of its settings.
    """
    task = registry.tasks().get(spec.name)
    settings = spec.apply(next(iter(task.info.scales.values())).settings)
    try:
        return decided(task, settings)
    except ValueError as error:
        raise UsageError(f"task {spec.canonical(spec.name)}: {error}") from error


def room_of(task: Task) -> str:
    """The room that declares a task, which is the folder of its module; `plugins` for a task of a plugin."""
    found = [
        (module, name)
        for module in list(sys.modules)
        if module.startswith(_TASKS)
        for name, value in vars(sys.modules[module]).items()
        if value is task
    ]
    declaring = [module for module, name in found if re.search(rf"^{name}\b.*=", _source(module), re.MULTILINE)]
    module = next(iter([*declaring, *(module for module, _ in found)]), None)
    return module.removeprefix(_TASKS).partition(".")[0] if module else "plugins"


def _source(module: str) -> str:
    return Path(str(sys.modules[module].__file__)).read_text(encoding="utf-8")


def _backbones() -> Rows:
    return [
        {"backbone": b.name, "summary": b.summary, "can": sorted(b.capabilities), "weights": _weights(b)}
        for b in BACKBONES.values()
    ]


def _weights(backbone: Backbone) -> str:
    """The source of a backbone's weights, or its layers and width at each scale."""
    if backbone.checkpoint is None:
        sizes = (f"{scale} {size['layers']} x {size['width']}" for scale, size in backbone.sizes.items())
        return f"from scratch: {', '.join(sizes)}"
    package = f", or the package {backbone.checkpoint.package}" if backbone.checkpoint.package else ""
    return f"{backbone.checkpoint.repo}{package}"


def _recipes() -> Rows:
    return [{"recipe": r.name, "summary": r.summary, "stages": list(r.stages)} for r in RECIPES.values()]


def _suites() -> Rows:
    return [
        {"suite": s.name, "summary": s.summary, "models": list(s.models), "tasks": dict(s.tasks)}
        for s in SUITES.values()
    ]


LISTINGS: Mapping[str, Callable[[], Rows]] = {
    "models": _models,
    "tasks": _tasks,
    "backbones": _backbones,
    "recipes": _recipes,
    "suites": _suites,
}

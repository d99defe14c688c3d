"""What `bench list` shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ...adapters.backbone import Backbone
from .. import registry
from ..recipes import RECIPES
from ..suites import SUITES

if TYPE_CHECKING:
    from rich.console import Console

Rows = list[dict[str, Any]]


def listing(what: str) -> tuple[Rows, list[str]]:
    """Rows of a listing, JSON-ready, and what is wrong with plugins.

    Args:
        what: `models`, `tasks`, `backbones`, `recipes` or `suites`.
    """
    return LISTINGS[what]()


def print_listing(rows: Rows, console: Console) -> None:
    """A table with one line per row; lists and mappings in a cell are written out."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in rows[0] if rows else ("nothing",):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console.print(table, markup=False)


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _models() -> tuple[Rows, list[str]]:
    known = registry.mechanisms()
    rows: Rows = [
        {
            "model": mechanism.name,
            "summary": mechanism.summary,
            "options": {
                key: "|".join(option.choices) if option.choices else option.kind.__name__
                for key, option in mechanism.options.items()
            },
            "source": mechanism.source,
        }
        for mechanism in known.items.values()
    ]
    return rows, _problems(known.broken)


def _tasks() -> tuple[Rows, list[str]]:
    known = registry.tasks()
    rows: Rows = [
        {
            "task": task.info.name,
            "summary": task.info.summary,
            "main metric": task.info.main_metric,
            "data": list(task.info.data),
            "backbone": task.info.backbone,
            "recipes": list(task.info.recipes),
            "licence": task.info.licence,
        }
        for task in known.items.values()
    ]
    rows += [
        {
            "task": f"{family.prefix}NAME",
            "summary": family.summary,
            "main metric": "",
            "data": list(family.data),
            "backbone": "",
            "recipes": [],
            "licence": "",
        }
        for family in known.families.values()
    ]
    return rows, _problems(known.broken)


def _backbones() -> tuple[Rows, list[str]]:
    rows: Rows = [
        {
            "backbone": backbone.name,
            "summary": backbone.summary,
            "can": sorted(backbone.capabilities),
            "weights": _weights(backbone),
        }
        for backbone in registry.backbones().items.values()
    ]
    return rows, []


def _weights(backbone: Backbone) -> str:
    """Where a backbone's weights come from, or its layers and width at each scale."""
    if backbone.checkpoint is None:
        sizes = (f"{scale} {size['layers']} x {size['width']}" for scale, size in backbone.sizes.items())
        return f"from scratch: {', '.join(sizes)}"
    package = f", or the package {backbone.checkpoint.package}" if backbone.checkpoint.package else ""
    return f"{backbone.checkpoint.repo}{package}"


def _recipes() -> tuple[Rows, list[str]]:
    return [{"recipe": r.name, "summary": r.summary, "stages": list(r.stages)} for r in RECIPES.values()], []


def _suites() -> tuple[Rows, list[str]]:
    rows: Rows = [
        {"suite": s.name, "summary": s.summary, "models": list(s.models), "tasks": dict(s.tasks)}
        for s in SUITES.values()
    ]
    return rows, []


def _problems(broken: Mapping[str, str]) -> list[str]:
    return [f"plugin {name!r} is not usable: {reason}" for name, reason in broken.items()]


LISTINGS: Mapping[str, Callable[[], tuple[Rows, list[str]]]] = {
    "models": _models,
    "tasks": _tasks,
    "backbones": _backbones,
    "recipes": _recipes,
    "suites": _suites,
}

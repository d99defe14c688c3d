"""`bench list`: models, tasks, backbones, recipes and suites as rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from rich import box
from rich.console import Console
from rich.table import Table

from ...adapters.backbone import BACKBONES, Backbone
from .. import registry
from ..recipes import RECIPES
from ..suites import SUITES

Rows: TypeAlias = list[dict[str, Any]]


def listing(what: str) -> tuple[Rows, list[str]]:
    """Rows of a listing, JSON-ready, and a message for each plugin that is not usable.

    Args:
        what: `models`, `tasks`, `backbones`, `recipes` or `suites`.
    """
    broken: Mapping[str, str] = {}
    if what in ("models", "tasks"):
        broken = registry.mechanisms().broken if what == "models" else registry.tasks().broken
    return LISTINGS[what](), [f"plugin {name!r} is not usable: {reason}" for name, reason in broken.items()]


def print_listing(rows: Rows, console: Console) -> None:
    """Prints a table with one line per row; lists and mappings in a cell are written out."""
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
    rows: Rows = [
        {
            "task": info.name,
            "summary": info.summary,
            "main metric": info.main_metric,
            "data": list(info.data),
            "backbone": info.backbone,
            "recipes": list(info.recipes),
            "licence": info.licence,
        }
        for info in (task.info for task in known.items.values())
    ]
    nothing = {"main metric": "", "data": [], "backbone": "", "recipes": [], "licence": ""}
    for family in known.families.values():
        named = {"task": f"{family.prefix}NAME", "summary": family.summary}
        rows.append({**named, **nothing, "data": list(family.data)})
    return rows


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

"""Lets transformers load converted models once it is imported, without importing it.

Python has no hook for the end of an import, and transformers none for plugins. So a finder in `sys.meta_path` lets the
other finders find the two modules that hold transformers' classes named `Auto...`, and adds our models after each of
them has run.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_AUTO = "transformers.models.auto."
_THEN = {f"{_AUTO}configuration_auto": "add_to_configs", f"{_AUTO}modeling_auto": "add_to_models"}
"""Functions of `auto_classes` to call after a module has been imported."""


class AutoClassFinder:
    """A finder that finds nothing itself, and adds our models to the modules in which they belong."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders find, with a loader that also calls our function; None for all other modules."""
        if name not in _THEN:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(name, path, target) for finder in others if hasattr(finder, "find_spec"))
        if (found := next(filter(None, specs), None)) is not None and found.loader is not None:
            loader: Any = found.loader
            execute = loader.exec_module

            def execute_and_add(module: ModuleType) -> None:
                del loader.exec_module  # the instance's, which hides that of its class
                execute(module)
                _add(module)

            loader.exec_module = execute_and_add
        return found


def watch_transformers() -> None:
    """Adds our models to transformers if it is imported already, and otherwise as soon as it is."""
    if not any(isinstance(finder, AutoClassFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, AutoClassFinder())
    for name in _THEN:
        if (module := sys.modules.get(name)) is not None:
            _add(module)


def _add(module: ModuleType) -> None:
    classes = importlib.import_module(".auto_classes", __package__)
    getattr(classes, _THEN[module.__name__])(module)

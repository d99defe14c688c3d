"""numpy and torch, imported when a function first uses them, so that tasks can be listed without either."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any


class _OnFirstUse(ModuleType):
    """A module that is imported when one of its names is first asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np, torch = _OnFirstUse("numpy"), _OnFirstUse("torch")

__all__ = ["np", "torch"]

"""numpy and torch, imported when a function first uses them, so that tasks are listed without either.

`NDArray` and `Tensor` are for annotations, which nothing evaluates when a program runs.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["NDArray", "Tensor", "np", "torch"]


class _OnFirstUse(ModuleType):
    """A module that is imported when one of its names is first asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


if not TYPE_CHECKING:
    np, torch = _OnFirstUse("numpy"), _OnFirstUse("torch")
    NDArray = Tensor = Any

"""The peer flash-linear-attention: its plain references, which run on a CPU."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from importlib.metadata import version
from types import ModuleType

import pytest


def peer_module(name: str) -> ModuleType:
    """A module of the package, such as `ops.gla.naive`, without the package's models.

    To import these would put them into the places of transformers' own models, for all tests of the process.
    """
    pytest.importorskip("triton")
    if sys.modules.get("fla") is None:
        found = importlib.util.find_spec("fla")
        if found is None:
            pytest.skip("flash-linear-attention is not installed")
        package = importlib.util.module_from_spec(found)
        setattr(package, "__version__", version("flash-linear-attention"))  # noqa: B010
        sys.modules["fla"] = package
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of a GPU and of libraries that it could use
        return importlib.import_module(f"fla.{name}")

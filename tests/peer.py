"""The peer flash-linear-attention: its plain references, which run on a CPU."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
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


def operator_parameters(room: str, operator: str) -> set[str]:
    """The names that an operator such as `chunk_gla` takes, read from its source: to import it takes a GPU."""
    naive = Path(str(peer_module(f"ops.{room}.naive").__file__))
    source = ast.parse(naive.with_name(f"{operator.removesuffix('_' + room)}.py").read_text(encoding="utf-8"))
    found = next(node for node in source.body if isinstance(node, ast.FunctionDef) and node.name == operator)
    return {argument.arg for argument in found.args.args}

"""Kernels are launched with every argument by name: with thirty positional ones a swap is a silent wrong number."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOMS = ("fused", "wide", "hybrid", "distillation", "triton")
KERNELS = Path(__file__).parents[3] / "kernels"


def positional(source: str) -> Iterator[str]:
    """Launches that give an argument of a kernel by its place."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        by_launch = isinstance(node.func, ast.Name) and node.func.id == "launch"
        allowed = 2 if by_launch else 0
        if (by_launch or isinstance(node.func, ast.Subscript)) and len(node.args) > allowed:
            yield ast.unparse(node)


@pytest.mark.parametrize("path", sorted(path for room in ROOMS for path in (KERNELS / room).glob("*.py")), ids=str)
def test_every_launch_names_its_arguments(path: Path) -> None:
    assert list(positional(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("source", ["kernel[1,](x, n=3)", "launch(kernel, (1,), x, n=3)", "kernel[grid](*all)"])
def test_a_launch_by_place_is_found(source: str) -> None:
    assert list(positional(source)) == [source]
    assert list(positional("launch(kernel, (1,), x=x, **options)\nkernel[grid](**options)")) == []

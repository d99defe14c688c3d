"""Tensor shapes are checked while tests run, in every room of kernels and adapters."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

import jaxtyping
import pytest
import torch
from jaxtyping import AbstractArray, Float, TypeCheckError
from torch import Tensor

import hedgebench
from hedgebench.adapters.attention_model import Mask, Tokens
from hedgebench.kernels.linear.naive import linear_attention_naive
from hedgebench.kernels.softmax.attention import softmax_attention

beartype = pytest.importorskip("beartype")

ROOT = Path(hedgebench.__file__).parent


def test_a_wrong_shape_fails_in_the_rooms_of_kernels() -> None:
    x = torch.zeros(1, 2, 3, 4)
    for attention in (linear_attention_naive, softmax_attention):
        attention(x, x, x, causal=True)
        with pytest.raises(TypeCheckError):
            attention(x, x, x[0], causal=True)
        with pytest.raises(TypeCheckError):
            attention(x, x, x[:, :, :2], causal=True)


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorated as the functions of kernels and adapters are while tests run."""
    return jaxtyping.jaxtyped(typechecker=beartype.beartype)(function)


def test_results_are_checked_though_the_arguments_passed_before() -> None:
    @checked
    def first(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return x[: kept[0]]

    kept, x = [3], torch.zeros(3, 2)
    for rows in (3, 3, 2, 2, 3):
        kept[0] = rows
        with nullcontext() if rows == 3 else pytest.raises(TypeCheckError):
            assert first(x).shape == (3, 2)


def test_values_of_axes_other_types_and_items_of_lists_are_told_apart() -> None:
    @checked
    def zeros(rows: int) -> Float[Tensor, "{rows} c"]:
        return torch.zeros(2, 3)

    @checked
    def last(items: list[int]) -> int:
        return items[-1]

    for _ in range(2):
        assert zeros(2).shape == (2, 3)
        assert last([3]) == 3
        for function, wrong in ((zeros, 3), (zeros, 2.0), (zeros, True), (last, ["3"])):
            with pytest.raises(TypeCheckError):
                function(wrong)


def _annotated() -> list[str]:
    """Modules of kernels and adapters with a function at their top whose annotations name a shape."""
    found = []
    for path in (file for floor in ("kernels", "adapters") for file in sorted((ROOT / floor).rglob("*.py"))):
        source = path.read_text(encoding="utf-8")
        functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
        if "@triton.jit" not in source and any("Float[Tensor" in ast.unparse(node.args) for node in functions):
            found.append(".".join(("hedgebench", *path.relative_to(ROOT).with_suffix("").parts)))
    return found


@pytest.mark.parametrize("name", _annotated())
def test_functions_with_shapes_are_checked_in_every_module(name: str) -> None:
    module = importlib.import_module(name)
    functions = [value for value in vars(module).values() if inspect.isfunction(value) and value.__module__ == name]
    shaped = [
        function
        for function in functions
        if "Float[Tensor" in inspect.getsource(inspect.unwrap(function)).split(":\n")[0]
    ]
    assert shaped
    assert all(hasattr(function, "__wrapped__") for function in shaped)


def test_modules_that_are_not_checked_hold_no_shape_of_another_module() -> None:
    """Checked are those that import from jaxtyping; an alias of a shape alone would go unchecked."""
    for path in (file for floor in ("kernels", "adapters") for file in (ROOT / floor).rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if "from jaxtyping import" not in source and "@triton.jit" not in source:
            name = ".".join(("hedgebench", *path.relative_to(ROOT).with_suffix("").parts))
            module = importlib.import_module(name)
            assert not [key for key, value in vars(module).items() if _is_shape(value)], name


def _is_shape(value: object) -> bool:
    return any(isinstance(part, type) and issubclass(part, AbstractArray) for part in (value, *get_args(value)))


def test_shapes_are_told_from_other_types() -> None:
    assert _is_shape(Tokens)
    assert _is_shape(Mask)
    assert not _is_shape(torch.Tensor | None)


def test_modules_of_every_kind_are_among_them() -> None:
    rooms = {name.rpartition(".")[0] for name in _annotated()}
    assert {"hedgebench.kernels.linear", "hedgebench.kernels.softmax", "hedgebench.kernels.maps"} <= rooms

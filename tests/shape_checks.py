"""Checks tensor shapes once for each set of shapes, types and dtypes that a function is called with.

A check takes several times as long as most calls here. What it finds depends on the function's annotations and on the
types, shapes and dtypes of arguments and result alone, and for axes such as `{rows}` on numbers among the arguments:
a call that has all of these in common with one that passed would pass too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import cache, partial, update_wrapper
from types import CodeType, FunctionType
from typing import Any

import jaxtyping

Passed = dict[Hashable, set[Hashable]]
"""For each set of arguments that passed, the results that did."""

_WITH_SHAPES = frozenset({"Tensor", "Parameter", "ndarray"})
"""Names, as importing torch takes seconds, which a process that only distributes tests can do without."""

_WITH_VALUES = frozenset({type(None), bool, int, str})
_WITH_MORE = frozenset({list, dict, set, frozenset})

_passed: dict[tuple[str, str, CodeType], Passed] = {}


def check_shapes(modules: list[str]) -> None:
    """Has the functions and dataclasses of these modules checked, which must not be imported yet."""
    setattr(jaxtyping, "jaxtyped", partial(_jaxtyped, jaxtyping.jaxtyped))  # noqa: B010
    jaxtyping.install_import_hook(modules, "beartype.beartype")


def described(value: object) -> Hashable:
    """What a check depends on.

    Raises:
        TypeError: that is not told, as of a list, whose items may differ.
    """
    kind = type(value)
    if kind.__name__ in _WITH_SHAPES:
        return kind, value.shape, value.dtype  # type: ignore[attr-defined]
    if kind in _WITH_VALUES:
        return kind, value
    if isinstance(value, tuple):
        return kind, *map(described, value)
    if kind in _WITH_MORE:
        raise TypeError(kind)
    return value if isinstance(value, type) else kind


def _jaxtyped(jaxtyped: Callable[..., Any], /, *, typechecker: Any) -> Callable[[Any], Any]:
    """Stands for jaxtyping's decorator: `jaxtyped` is its own, which checks every call."""
    check = partial(jaxtyped, typechecker=typechecker)

    def decorate(decorated: Any) -> Any:
        if isinstance(decorated, FunctionType):
            return _checked_once(decorated, check)
        if isinstance(decorated, type) and dataclasses.is_dataclass(decorated):
            init: Any = decorated.__init__
            if not hasattr(init, "__wrapped__"):
                setattr(decorated, "__init__", _checked_once(init, check))  # noqa: B010
            return decorated
        return check(decorated)

    return decorate


def _checked_once(function: FunctionType, check: Callable[[Any], Any]) -> Any:
    passed = _passed.setdefault((function.__module__, function.__qualname__, function.__code__), {})

    @cache
    def checked() -> Any:
        return check(function)

    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        try:
            results = passed.get(arguments := described((args, *kwargs.items())))
        except TypeError:
            return checked()(*args, **kwargs)
        if results is None:
            result = checked()(*args, **kwargs)
            with suppress(TypeError):
                passed[arguments] = {described(result)}
            return result
        result = function(*args, **kwargs)
        try:
            if (found := described(result)) in results:
                return result
        except TypeError:
            found = None
        check(_giving(result, function))(*args, **kwargs)
        if found is not None:
            results.add(found)
        return result

    return update_wrapper(call, function)


def _giving(result: object, function: FunctionType) -> FunctionType:
    """A function that is annotated as another, in the same module, and gives this result."""

    def give(*args: Any, **kwargs: Any) -> object:
        return result

    return update_wrapper(FunctionType(give.__code__, function.__globals__, closure=give.__closure__), function)

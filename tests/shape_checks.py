"""Checks tensor shapes once for each set of shapes, types and dtypes that a function is called with.

A check takes several times as long as most calls here. What it finds depends on the function's annotations and on the
types, shapes and dtypes of arguments and result alone, and for axes such as `{rows}` on numbers among the arguments:
a call that has all of these in common with one that passed would pass too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial, update_wrapper
from types import CodeType, FunctionType
from typing import Any

import jaxtyping

_WITH_SHAPES = frozenset({"Tensor", "Parameter", "ndarray"})
"""Names, as importing torch takes seconds, which a process that only distributes tests can do without."""

_WITH_VALUES = frozenset({type(None), bool, int, str})
_WITH_MORE = frozenset({list, dict, set, frozenset})


@dataclasses.dataclass
class Checks:
    """What functions of one source share: a function inside another is a new one whenever the other is called.

    Attributes:
        passed: For each set of arguments that passed, the results that did.
        bodies: Of calls that are being checked, the innermost last.
        checked: Has its arguments and its result checked, and calls the last body; None until it is needed.
    """

    passed: dict[Hashable, set[Hashable]] = dataclasses.field(default_factory=dict)
    bodies: list[Callable[..., Any]] = dataclasses.field(default_factory=list)
    checked: Callable[..., Any] | None = None


_checks: dict[tuple[str, str, CodeType], Checks] = {}


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


def _checked_once(function: FunctionType, check: Callable[[Any], Any]) -> Callable[..., Any]:
    checks = _checks.setdefault((function.__module__, function.__qualname__, function.__code__), Checks())

    def checked(body: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        ready = checks.checked = checks.checked or check(_calling(checks.bodies, function))
        checks.bodies.append(body)
        try:
            return ready(*args, **kwargs)
        finally:
            checks.bodies.pop()

    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        try:
            results = checks.passed.get(arguments := described((args, *kwargs.items())))
        except TypeError:
            return checked(function, args, kwargs)
        if results is None:
            result = checked(function, args, kwargs)
            with suppress(TypeError):
                checks.passed[arguments] = {described(result)}
            return result
        result = function(*args, **kwargs)
        try:
            if (found := described(result)) in results:
                return result
        except TypeError:
            found = None
        checked(lambda *args, **kwargs: result, args, kwargs)
        if found is not None:
            results.add(found)
        return result

    return update_wrapper(call, function)


def _calling(bodies: list[Callable[..., Any]], function: FunctionType) -> Callable[..., Any]:
    """A function that is annotated as another, in the same module, and calls the last of the bodies."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return bodies[-1](*args, **kwargs)

    return update_wrapper(FunctionType(call.__code__, function.__globals__, closure=call.__closure__), function)

"""The door for JSON that another program or an earlier run wrote: it is parsed and validated here, or refused.

msgspec does both. What it would let through is demanded of it: fields that a dataclass lacks are refused, integers have
64 bits, and where a float is declared the strings `nan`, `inf` and `-inf` become the numbers that JSON lacks.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import operator
import re
import reprlib
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from .names import unknown_name

_T = TypeVar("_T")
_UNIONS = (typing.Union, types.UnionType)
_LONG_NUMBER = re.compile(rb"\d{19}")
"""Matches every integer of more than 64 bits, and little else."""


class ForeignJsonError(ValueError):
    """A text is not JSON, or its JSON does not have the fields and types that are read."""


def parse_json(text: bytes | str) -> Any:
    """The plain value of a JSON text.

    `NaN` and `Infinity`, which Python and lm-eval write, become floats; so do integers of more than 64 bits.

    Raises:
        ForeignJsonError: The text is not JSON, is nested too deeply, or holds a lone surrogate or a number that is out
            of a float's range.
    """
    try:
        return _parsed(text.encode() if isinstance(text, str) else text)
    except RecursionError as error:
        raise ForeignJsonError("it is nested too deeply") from error
    except (ValueError, OverflowError) as error:  # errors of msgspec, json, Unicode and numbers
        raise ForeignJsonError(f"it is not JSON: {error}") from error


def convert(data: object, kind: type[_T], where: str) -> _T:
    """Plain data, as `parse_json` returns it, as a value of a dataclass or another type.

    Args:
        data: Mappings, lists and scalars.
        kind: The type; its fields may be dataclasses, mappings, tuples, unions, literals and scalars.
        where: What messages call `data`, such as `record`.

    Raises:
        ForeignJsonError: A field is missing, unknown or of the wrong type; the message has its place and its value.
    """
    try:
        strict = msgspec.convert(data, _strict(kind))  # type: ignore[arg-type]
        return msgspec.convert(strict, kind, from_attributes=True, strict=False)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ForeignJsonError(_complaint(kind, data, where)) from error


def finite(value: Any) -> Any:
    """Plain data with every non-finite number as the string `nan`, `inf` or `-inf`, which JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def format_json(value: Any, indent: int | None = None) -> str:
    """Plain data as JSON, non-finite numbers as `finite` spells them."""
    return json.dumps(finite(value), ensure_ascii=False, allow_nan=False, indent=indent)


def _parsed(raw: bytes) -> Any:
    try:
        value = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        # With NaN and Infinity as strings, all else that msgspec refuses is still refused.
        msgspec.json.decode(json.dumps(json.loads(raw, parse_constant=str), allow_nan=False))
        return json.loads(raw, parse_int=_integer)
    return json.loads(raw, parse_int=_integer) if _LONG_NUMBER.search(raw) else value


def _integer(digits: str) -> int | float:
    value = int(digits)
    return value if -(2**63) <= value < 2**63 else float(value)


@functools.cache
def _strict(kind: Any) -> Any:
    """A type that refuses what `kind` would let through.

    Dataclasses become structs that forbid unknown fields; msgspec has no such option for dataclasses themselves. A
    struct's values become a dataclass in msgspec's lax mode, which turns the three strings of a float into numbers.
    """
    if kind is int:
        return Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    if kind is float:
        return float | Literal["nan", "inf", "-inf"]
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        fields = [(f.name, _strict(hints[f.name]), _default(f)) for f in dataclasses.fields(kind)]
        return msgspec.defstruct(kind.__name__, fields, kw_only=True, forbid_unknown_fields=True)  # type: ignore[union-attr]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in _UNIONS:
        # Beside `str` the three strings stay strings: a union may hold one type of string.
        members = (one if one is float and str in arguments else _strict(one) for one in arguments)
        return functools.reduce(operator.or_, members)
    if origin is Literal or not arguments:
        return kind
    return origin[tuple(map(_strict, arguments))]


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return msgspec.field(default_factory=field.default_factory)
    return msgspec.NODEFAULT if field.default is dataclasses.MISSING else field.default


def _complaint(kind: Any, value: Any, where: str) -> str:
    """Which part of `value` is not of its type and why: msgspec names neither values nor keys of mappings."""
    for one in typing.get_args(kind) if typing.get_origin(kind) in _UNIONS else (kind,):
        arguments = typing.get_args(one)
        if isinstance(value, list | tuple) and typing.get_origin(one) is tuple:
            parts = [(f"{where}[{i}]", arguments[0], item) for i, item in enumerate(value)]
        elif isinstance(value, dict) and typing.get_origin(one) is Mapping:
            parts = [(f"{where}.{key}", arguments[1], item) for key, item in value.items()]
        elif isinstance(value, dict) and dataclasses.is_dataclass(one):
            hints = typing.get_type_hints(one)
            if unknown := [key for key in value if key not in hints]:
                return str(unknown_name(f"field of {where}", str(unknown[0]), hints))
            parts = [(f"{where}.{key}", hints[key], item) for key, item in value.items()]
            needed = {f.name for f in dataclasses.fields(one) if _default(f) is msgspec.NODEFAULT}
            if missing := sorted(needed - value.keys()):
                return f"{where} lacks {', '.join(missing)}"
        else:
            continue
        complaints = (_complaint(inner, item, place) for place, inner, item in parts if not _fits(inner, item))
        return next(complaints, f"{where} has keys that are not strings")
    spelled = kind.__name__ if isinstance(kind, type) else re.sub(r"\w[\w.]*\.(?=\w)", "", str(kind))
    return f"{where} is {reprlib.repr(value)}; expected {spelled}"


def _fits(kind: Any, value: Any) -> bool:
    try:
        msgspec.convert(value, _strict(kind))
    except (msgspec.ValidationError, RecursionError):
        return False
    return True

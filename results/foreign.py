"""Reads JSON that another program or an earlier run wrote; every reader parses and validates it here, by msgspec.

Beyond msgspec's own checks, unknown fields of dataclasses are refused, integers are limited to 64 bits, and the strings
`nan`, `inf` and `-inf` are read as numbers where a float is declared; `format_json` writes these strings. All refusals
are one error, `ForeignJsonError`.
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
from collections.abc import Iterator, Mapping
from contextlib import suppress
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
        where: Name of `data` in messages, such as `record`.

    Raises:
        ForeignJsonError: A field is missing, unknown or of the wrong type; the message has its place and, for a wrong
            type, its value.
    """
    try:
        strict = msgspec.convert(data, _strict(kind))  # type: ignore[arg-type]
        return msgspec.convert(strict, kind, from_attributes=True, strict=False)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ForeignJsonError(next(_complaints(kind, data, where))) from error


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
        # NaN and Infinity become strings here, so that msgspec still refuses everything else that is not JSON.
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
        fields = []
        for f in dataclasses.fields(kind):
            defaults = {name: getattr(f, name) for name in ("default", "default_factory")}
            given = {name: value for name, value in defaults.items() if value is not dataclasses.MISSING}
            fields.append((f.name, _strict(hints[f.name]), msgspec.field(**given)))
        return msgspec.defstruct(kind.__name__, fields, kw_only=True, forbid_unknown_fields=True)  # type: ignore[union-attr]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in _UNIONS:
        # In a union with `str` the three strings stay strings: msgspec takes one type of string in a union.
        members = (one if one is float and str in arguments else _strict(one) for one in arguments)
        return functools.reduce(operator.or_, members)
    if origin is Literal or not arguments:
        return kind
    return origin[tuple(map(_strict, arguments))]


def _complaints(kind: Any, value: Any, where: str) -> Iterator[str]:
    """The parts of `value` that are not of their types, the innermost first; msgspec names neither values nor keys."""
    with suppress(msgspec.ValidationError, RecursionError):
        msgspec.convert(value, _strict(kind))
        return
    for one in typing.get_args(kind) if typing.get_origin(kind) in _UNIONS else (kind,):
        arguments = typing.get_args(one)
        if isinstance(value, list | tuple) and typing.get_origin(one) is tuple:
            for i, item in enumerate(value):
                yield from _complaints(arguments[0], item, f"{where}[{i}]")
        elif isinstance(value, dict) and typing.get_origin(one) is Mapping:
            for key, item in value.items():
                yield from _complaints(arguments[1], item, f"{where}.{key}")
        elif isinstance(value, dict) and dataclasses.is_dataclass(one):
            hints, fields = typing.get_type_hints(one), msgspec.structs.fields(_strict(one))  # type: ignore[arg-type]
            if unknown := [key for key in value if key not in hints]:
                yield str(unknown_name(f"field of {where}", str(unknown[0]), hints))
            elif missing := [f.name for f in fields if f.required and f.name not in value]:
                yield f"{where} lacks {', '.join(missing)}"
            else:
                for key, item in value.items():
                    yield from _complaints(hints[key], item, f"{where}.{key}")
    spelled = kind.__name__ if isinstance(kind, type) else re.sub(r"\w[\w.]*\.(?=\w)", "", str(kind))
    yield f"{where} is {reprlib.repr(value)}; expected {spelled}"

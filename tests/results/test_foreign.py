"""JSON that another program or an earlier run wrote is read as it was meant, or refused with one error."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgebench.results.foreign import ForeignJsonError, convert, format_json, parse_json
from hedgebench.results.record import from_json, record_text

RECORD = (Path(__file__).parent / "data" / "record-v1.json").read_bytes()
HOSTILE = [
    *(b"[" * 100_000, b'{"a":' * 100_000, b"9" * 30, b"9" * 400, b"9" * 5_000, b"1e999", b"-1e999", b"0.5", b"-0"),
    *(b"NaN", b"-Infinity", b'"nan"', b'"inf"', b'"nam"', b"null", b"true", b'"\\ud800"', b'"\\ud83d\\ude00"', b"\xff"),
    *(
        b"\xed\xa0\x80",
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b" ",
        b"{}",
        b"[]",
        b'"x": 1,',
        b"\xef\xbb\xbf",
    ),
]


@dataclass(frozen=True)
class Inner:
    value: float | None
    kind: Literal["big", "small"] = "small"


@dataclass(frozen=True)
class Outer:
    count: int
    inner: Inner | None = None
    by_name: Mapping[str, Inner] = field(default_factory=dict)
    shares: tuple[float, ...] = ()
    plain: Mapping[str, str | int | float | bool | tuple[int, ...] | None] = field(default_factory=dict)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_record_is_read_or_refused_with_the_one_error(data: st.DataObject) -> None:
    text = RECORD
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.integers(0, 12))
        text = text[:start] + data.draw(st.sampled_from(HOSTILE) | st.binary(max_size=3)) + text[end:]
    try:
        record = from_json(parse_json(text))
    except ForeignJsonError as error:
        str(error).encode()
    else:
        assert record_text(from_json(parse_json(record_text(record)))) == record_text(record)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_record_with_another_value_anywhere_is_read_or_refused_with_the_one_error(data: st.DataObject) -> None:
    """As Python's own dictionaries, which may hold what no JSON text can."""
    value = json.loads(RECORD)
    container, key = value, data.draw(st.sampled_from(list(value)))
    while isinstance(inner := container[key], dict | list) and inner and data.draw(st.booleans()):
        container, key = (
            inner,
            data.draw(st.sampled_from(list(inner) if isinstance(inner, dict) else range(len(inner)))),
        )
    container[key] = data.draw(st.sampled_from([None, True, 3, 0.5, "nan", "x", [], {}, [{}], {"a": {}}, 10**400, b""]))
    if data.draw(st.booleans()):
        value[data.draw(st.text())] = 1
    try:
        record = from_json(value)
    except ForeignJsonError:
        pass
    else:
        assert record_text(from_json(json.loads(record_text(record)))) == record_text(record)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not JSON: Expecting value: line 1 column 1"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b"1e999", "not JSON"),
        (b"9" * 400, "too large to convert to float"),
        (b"9" * 5_000, "4300 digits"),
        (b'["\\ud800"]', "not JSON"),
        (b'["\xed\xa0\x80"]', "not JSON"),
        ('["\ud800"]', "surrogates not allowed"),
        (b'["\\ud800", NaN]', "not JSON"),
    ],
    ids=lambda value: str(value[:12]),
)
def test_what_is_no_json_is_refused(text: bytes | str, message: str) -> None:
    with pytest.raises(ForeignJsonError, match=message):
        parse_json(text)


def test_pythons_numbers_are_read_and_long_integers_become_floats() -> None:
    assert str(parse_json("[NaN, -Infinity, 1]")) == "[nan, -inf, 1]"
    longest = [2**63 - 1, -(2**63)]
    assert parse_json(json.dumps(longest)) == longest
    assert [type(value) for value in parse_json(json.dumps([2**63, "1" * 30, 0.1234567890123456789]))] == [
        float,
        str,
        float,
    ]


def test_numbers_that_json_lacks_come_back_where_a_float_is_declared() -> None:
    read = convert({"count": 1, "shares": ["nan", "-inf", 2], "plain": {"a": "nan"}}, Outer, "outer")
    assert math.isnan(read.shares[0])
    assert read.shares[1:] == (-math.inf, 2.0)
    assert read.plain == {"a": "nan"}
    assert format_json({"a": [math.nan, (math.inf, 1.5)]}) == '{"a": ["nan", ["inf", 1.5]]}'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], r"outer is \[\]; expected Outer"),
        ({}, "outer lacks count"),
        ({"count": True}, "outer.count is True; expected int"),
        ({"count": 1.0}, "outer.count is 1.0; expected int"),
        ({"count": 2**63}, "outer.count is 9223372036854775808; expected int"),
        ({"count": 1, "iner": {}}, "unknown field of outer 'iner'; did you mean inner?"),
        (
            {"count": 1, "inner": {"value": 1, "size": 2}},
            r"unknown field of outer.inner 'size' \(allowed: kind, value\)",
        ),
        ({"count": 1, "inner": 3}, r"outer.inner is 3; expected Inner \| None"),
        ({"count": 1, "by_name": {"a": {"value": None}, "b": {"value": "12"}}}, r"outer.by_name.b.value is '12'"),
        (
            {"count": 1, "by_name": {"a": {"value": 1, "kind": "bug"}}},
            r"a.kind is 'bug'; expected Literal\['big', 'small'\]",
        ),
        ({"count": 1, "shares": [1, "nam"]}, r"outer.shares\[1\] is 'nam'; expected float"),
        ({"count": 1, "shares": [10**400]}, r"outer.shares\[0\] is 1000.*; expected float"),
        ({"count": 1, "plain": {"a": [1, "x"]}}, r"outer.plain.a\[1\] is 'x'; expected int"),
        ({"count": 1, "plain": {"a": {}}}, r"outer.plain.a is {}; expected str \| int \| float \| bool"),
        ({"count": 1, "plain": {3: 1}}, r"outer.plain"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named_with_its_value(data: Any, message: str) -> None:
    with pytest.raises(ForeignJsonError, match=message):
        convert(data, Outer, "outer")

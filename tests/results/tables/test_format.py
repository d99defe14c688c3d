from __future__ import annotations

import math

import pytest

from hedgebench.results.tables.format import (
    format_arrow,
    format_bytes,
    format_measurement,
    format_status,
)


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (20.1234, 0.0578, ("20.123", "0.058")),
        (1234.5, 12.3, ("1,234", "12")),
        (1234.5, 123.0, ("1,234", "123")),
        (0.5, 1e-6, ("0.500000", "0.000001")),
        (0.5, 1e-9, ("0.5", "1.0e-09")),
        (1.25e-8, 3e-9, ("1.250e-08", "3.0e-09")),
        (20.1234, None, ("20.12", "")),
        (20.1234, 0.0, ("20.12", "")),
        (20.1234, math.nan, ("20.12", "")),
        (1234567.0, None, ("1,234,567", "")),
        (100.0, None, ("100", "")),
        (0.0, None, ("0", "")),
        (-0.05, None, ("-0.05", "")),
        (0.00001234, None, ("1.234e-05", "")),
        (math.nan, 1.0, ("nan", "")),
        (math.inf, None, ("inf", "")),
        (None, None, ("–", "")),
    ],
)
def test_a_value_has_as_many_digits_as_its_error_allows(
    value: float | None, stderr: float | None, text: tuple[str, str]
) -> None:
    assert format_measurement(value, stderr) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (3 * 2**29, "1.50 GiB"),
        (2**60, "1048576.00 TiB"),
        (math.inf, "inf"),
    ],
)
def test_bytes_have_binary_prefixes(count: float, text: str) -> None:
    assert format_bytes(count) == text
    assert format_measurement(count, 5.0, "bytes") == (text, "")


def test_directions_and_statuses_are_spelled_for_people() -> None:
    assert [format_arrow(direction) for direction in (True, False, None)] == [" ↑", " ↓", ""]
    assert [format_status("oom"), format_status("error")] == ["OOM", "error"]

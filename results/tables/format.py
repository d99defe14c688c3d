"""Text for people: numbers with errors and units, directions, statuses, Markdown."""

from __future__ import annotations

import math
import re

_PREFIXES = ("B", "KiB", "MiB", "GiB", "TiB")
_COMPARATIVES = {"bytes": ("larger", "smaller")} | dict.fromkeys(("s", "ms", "us"), ("slower", "faster"))
_EQUAL = 1.005
"""Factors below it are shown as 1.00."""
_MOST_DECIMALS = 6
_SPECIAL = re.compile(r"([\\`*\[\]|~])")


def format_measurement(value: float | None, stderr: float | None, unit: str = "1") -> tuple[str, str]:
    """A value and its standard error, to two digits of the error; a value without an error has four digits.

    So has a value whose error has no digit among the first six decimals; the error then has an exponent. Bytes get a
    binary prefix. The error is empty if it is None or zero.
    """
    if value is None:
        return "–", ""
    if unit == "bytes":
        return format_bytes(value), ""
    if not math.isfinite(value) or not stderr or not math.isfinite(stderr):
        return _four_digits(value), ""
    if round(stderr, _MOST_DECIMALS) == 0:
        return _four_digits(value), f"{stderr:.1e}"
    decimals = min(_MOST_DECIMALS, max(0, 1 - math.floor(math.log10(stderr))))
    return f"{value:,.{decimals}f}", f"{stderr:,.{decimals}f}"


def format_with_error(value: float | None, stderr: float | None, unit: str = "1") -> str:
    """A value and, if it has one, its standard error as one text, as `format_measurement` writes them."""
    text, error = format_measurement(value, stderr, unit)
    return f"{text} ± {error}" if error else text


def format_bytes(count: float) -> str:
    """A number of bytes with a binary prefix, such as `1.50 MiB`."""
    if not math.isfinite(count):
        return str(count)
    step = min(len(_PREFIXES) - 1, int(math.log2(count) // 10)) if count >= 1 else 0
    return f"{count:.0f} B" if step == 0 else f"{count / 1024**step:.2f} {_PREFIXES[step]}"


def format_factor(factor: float, unit: str) -> str:
    """A ratio of two costs in words, such as `1.4x slower` for times and rates, or `248x smaller` for bytes."""
    more, less = _COMPARATIVES.get(unit, ("faster", "slower") if unit.endswith("/s") else ("more", "less"))
    size = max(factor, 1 / factor)
    return f"{size:.3g}x {more if factor > 1 else less}" if size >= _EQUAL else "1.00x"


def format_arrow(higher_is_better: bool | None) -> str:
    """An arrow in the direction of improvement, with a space before it; empty for a metric without one."""
    return "" if higher_is_better is None else (" ↑" if higher_is_better else " ↓")


def format_status(status: str) -> str:
    """A status as it stands in a table."""
    return "OOM" if status == "oom" else status


def escape_markdown(text: str) -> str:
    """One line of GitHub-flavoured Markdown that shows `text` as it is."""
    escaped = _SPECIAL.sub(r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def shortened(text: str, longest: int) -> str:
    """Text without its middle, if it is longer than `longest` characters."""
    if len(text) <= longest:
        return text
    end = longest // 2
    return f"{text[: longest - end - 1]}…{text[-end:]}"


def _four_digits(value: float) -> str:
    size = abs(value)
    if not math.isfinite(value) or size == 0:
        return f"{value:g}"
    if size < 1e-4 or size >= 1e12:
        return f"{value:.3e}"
    decimals = max(0, 3 - math.floor(math.log10(size)))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text

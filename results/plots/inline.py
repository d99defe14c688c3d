"""SVG plots as parts of a page: with unique identifiers, the page's colours in light and dark, and fewer digits."""

from __future__ import annotations

import re

_REFERENCE = re.compile(r'(\bid="|\burl\(#|\bhref="#)')
_METADATA = re.compile(r"<metadata>.*?</metadata>\s*", re.DOTALL)
_STYLE = re.compile(r'style="[^"]*"')
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_GEOMETRY = re.compile(r'\b(?:d|x|y|transform|points|width|height|x1|x2|y1|y2)="[^"]*"')
_DIGITS = re.compile(r"(\d\.\d\d)\d+")

_THEME = {
    "#ffffff": "var(--page)",
    "#222222": "var(--ink)",
    "#000000": "var(--ink)",
    "#d9d9d9": "var(--line)",
    "#888888": "var(--pale)",
    "#777777": "var(--pale)",
    "#555555": "var(--pale)",
    "#eeeeee": "var(--card)",
    "#332288": "var(--indigo)",
    "#882255": "var(--wine)",
    "#661100": "var(--brown)",
}
"""Colours of plots that follow the page's theme; the other colours of models suit both themes."""


def inline_svg(svg: str, number: int) -> str:
    """An SVG file as an element of a page.

    Args:
        svg: The file's text, as Matplotlib writes it.
        number: Sets its identifiers apart from those of the page's other plots.
    """
    svg = _METADATA.sub("", svg[svg.index("<svg") :])
    svg = _REFERENCE.sub(rf"\g<1>plot{number}-", svg)
    svg = _STYLE.sub(lambda style: _COLOUR.sub(_themed, style.group()), svg)
    return _GEOMETRY.sub(lambda geometry: _DIGITS.sub(r"\1", geometry.group()), svg)


def _themed(colour: re.Match[str]) -> str:
    return _THEME.get(colour.group(), colour.group())

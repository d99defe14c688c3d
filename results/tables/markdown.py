"""Text from records as it may stand in a Markdown table."""

from __future__ import annotations

import re

_SPECIAL = re.compile(r"([\\`*\[\]|~])")


def escape_markdown(text: str) -> str:
    """One line of GitHub-flavoured Markdown that shows `text` as it is."""
    escaped = _SPECIAL.sub(r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

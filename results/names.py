"""Unknown names, and the nearest names that exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UnknownNameError(ValueError):
    """A name that does not exist; the message has the name, the nearest ones and all that are allowed."""


def unknown_name(what: str, name: str, allowed: Iterable[str]) -> UnknownNameError:
    """The error to raise for `name`, which is no `what`, such as `model` or `task`."""
    names = sorted(allowed)
    nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
    return UnknownNameError(f"unknown {what} {name!r}{hint} (allowed: {', '.join(names) or 'none'})")

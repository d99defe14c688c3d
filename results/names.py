"""Errors for unknown names, which suggest the nearest names that exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UnknownNameError(ValueError):
    """A name does not exist; the message has the name, the nearest names and all that are allowed."""


def unknown_name(what: str, name: str, allowed: Iterable[str]) -> UnknownNameError:
    """The error to raise for a name.

    Args:
        what: The kind of thing that is named, such as `model` or `task`.
        name: The unknown name.
        allowed: All names that exist.
    """
    names = sorted(allowed)
    nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
    return UnknownNameError(f"unknown {what} {name!r}{hint} (allowed: {', '.join(names) or 'none'})")

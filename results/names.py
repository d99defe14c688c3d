"""Groups of tasks by name, and the error for an unknown name, with the nearest names. Imports nothing heavy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

GROUPS: Mapping[str, tuple[str, ...]] = {
    "glue": tuple(f"glue/{task}" for task in ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")),
    "lra": tuple(f"lra/{task}" for task in ("listops", "text", "retrieval", "image", "pathfinder")),
}
"""Groups whose tasks a paper has fixed: GLUE without WNLI and Long Range Arena without the stand-in `lra/digits`, as in
tables 8 and 6 of the Hedgehog paper (arXiv 2402.04347)."""

FAMILIES = frozenset({"kernels", "lm_eval"})
"""Prefixes before `/` of tasks that are no single benchmark: the scores of a family are not summed."""


class UsageError(ValueError):
    """The command line, a setting, a name or a file is wrong; `bench` ends with exit code 2."""


class UnknownNameError(UsageError):
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

"""Migrates records of earlier schema versions to the current version, one version at a time.

A change of a record's fields appends one step to `STEPS`; the current version is the number of steps plus one. The
tests keep a record of every version, and refuse a change of the fields without a new version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from .foreign import ForeignJsonError

Step: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]
"""Turns a record's JSON into that of the next version; it may change its argument."""

STEPS: tuple[Step, ...] = ()
"""The first step leads from version 1 to version 2, and so on."""

SCHEMA_VERSION = 1 + len(STEPS)


class NewerVersionError(ForeignJsonError):
    """A newer release wrote a record. The record is not damaged, and this release must not replace it."""


def migrated(data: Mapping[str, Any], steps: Sequence[Step] = STEPS) -> dict[str, Any]:
    """A record's JSON at the current version.

    Args:
        data: JSON of a record of any version so far; its first level is not changed.
        steps: The steps from version 1 to the current version.

    Raises:
        NewerVersionError: The version is newer than the current one.
        ForeignJsonError: `data` is no JSON object, or has no valid version.
    """
    if not isinstance(data, Mapping):
        raise ForeignJsonError(f"a record is a JSON object, not {type(data).__name__}")
    current = 1 + len(steps)
    version = data.get("schema_version")
    if type(version) is not int or version < 1:
        raise ForeignJsonError(f"schema_version is {version!r}; this release reads 1 to {current}")
    if version > current:
        raise NewerVersionError(
            f"schema_version is {version}, newer than this release, which reads 1 to {current}; update hedgebench"
        )
    moved = dict(data)
    for number, step in enumerate(steps[version - 1 :], start=version + 1):
        moved = {**step(moved), "schema_version": number}
    return moved

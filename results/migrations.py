"""Records of earlier schema versions, brought to today's one version at a time.

A change of what a record holds appends one step to `STEPS`, from which the version follows. The tests keep a record of
every version, and refuse a change of the fields without a new version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

Step: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]
"""Gives a record's JSON of the next version; it may change the one it takes."""

STEPS: tuple[Step, ...] = ()
"""The first step leads from version 1 to version 2, and so on."""

SCHEMA_VERSION = 1 + len(STEPS)


class UnknownVersionError(ValueError):
    """A record's schema version is no version."""


class NewerVersionError(UnknownVersionError):
    """A record was written by a newer release: it is not damaged, and this release must leave it alone."""


def migrated(data: Mapping[str, Any], steps: Sequence[Step] = STEPS) -> dict[str, Any]:
    """A record's JSON at today's version.

    Args:
        data: JSON of a record of any version so far; it stays as it is on its first level.
        steps: The chain.

    Raises:
        NewerVersionError: The version is newer than today's.
        UnknownVersionError: It is no version.
    """
    current = 1 + len(steps)
    version = data.get("schema_version")
    if type(version) is not int or version < 1:
        raise UnknownVersionError(f"schema_version is {version!r}; this release reads 1 to {current}")
    if version > current:
        raise NewerVersionError(
            f"schema_version is {version}, newer than this release, which reads 1 to {current}; update hedgebench"
        )
    moved = dict(data)
    for number, step in enumerate(steps[version - 1 :], start=version + 1):
        moved = {**step(moved), "schema_version": number}
    return moved

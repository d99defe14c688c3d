"""Names of lm-eval's tasks, groups and tags, from an index that is made once for each release and kept in the cache.

lm-eval reads some 14,000 YAML files to know its names, which takes seconds; every look-up after the first takes
milliseconds and does not import lm-eval.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...results.atomic import replacing
from ...results.names import UnknownNameError

_FORMAT = 1
_GROUP_FIELDS = frozenset({"group", "group_alias", "task", "aggregate_metric_list", "metadata", "include", "tag"})


@dataclass(frozen=True)
class IndexedName:
    """What a name stands for.

    Attributes:
        path: YAML file of a task; empty for a group or a tag.
        members: Names of the tasks and groups of a group or a tag.
        changes: Whether a group changes the settings of its members, which then differ from the tasks of those names.
    """

    path: str = ""
    members: tuple[str, ...] = ()
    changes: bool = False


def release() -> str:
    """Version of lm-eval.

    Raises:
        UnknownNameError: It is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UnknownNameError("tasks of lm-eval need lm-eval, which is not installed: pip install lm-eval==0.4.13")
    return version("lm_eval")


@functools.cache
def entries(cache: Path) -> Mapping[str, IndexedName]:
    """Every name of the installed lm-eval; the index is kept below `cache`."""
    import msgspec

    installed = release()
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "tasks"
    place = hashlib.sha256(f"{_FORMAT} {folder}".encode()).hexdigest()[:8]
    file = cache / "lm_eval" / f"index-{installed}-{place}.json"
    if not file.is_file():
        print(f"bench: reading the names of lm-eval {installed}'s tasks, once; this takes seconds", file=sys.stderr)
        with replacing(file) as handle:
            handle.write(msgspec.json.encode(read_folder(folder)))
    return msgspec.json.decode(file.read_bytes(), type=dict[str, IndexedName])


def read_folder(folder: Path) -> dict[str, IndexedName]:
    """The names in a folder of YAML files, as lm-eval itself reads it."""
    from lm_eval.tasks._index import TaskIndex

    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)  # it warns of every name that two of its own files share
    try:
        index = TaskIndex.build([folder])
    finally:
        logger.setLevel(before)
    return {name: _indexed(found) for name, found in index.items()}


def tasks_of(name: str, known: Mapping[str, IndexedName]) -> list[str]:
    """The tasks that a name stands for: itself, or those of a group or tag, each once.

    Raises:
        UnknownNameError: A group that changes its members, or a member that does not exist.
    """
    if name not in known:
        raise UnknownNameError(f"a group of lm-eval names {name!r}, which lm-eval does not have")
    entry = known[name]
    if entry.path:
        return [name]
    if entry.changes:
        raise UnknownNameError(
            f"lm-eval's group {name!r} changes the settings of its tasks, so they are not the tasks of those names; "
            "name single tasks, or run the group with bench lm-eval"
        )
    return list(dict.fromkeys(task for member in entry.members for task in tasks_of(member, known)))


def _indexed(found: Any) -> IndexedName:
    """What lm-eval's own index holds for a name, as ours keeps it."""
    from lm_eval.tasks._index import Kind

    if found.kind is Kind.GROUP:
        return _group(found.cfg or {})
    if found.kind is Kind.TAG:
        return IndexedName(members=tuple(sorted(found.tags)))
    return IndexedName(path=str(found.yaml_path))


def _group(config: Mapping[str, Any]) -> IndexedName:
    members: list[str] = []
    changes = not _GROUP_FIELDS.issuperset(config)
    listed = config.get("task") or []
    for member in listed if isinstance(listed, list) else [listed]:
        match member:
            case str():
                members.append(member)
            case {"task": str(name)} if len(member) == 1:
                members.append(name)
            case {"task": list()}:
                inner = _group(member)
                members += inner.members
                changes |= inner.changes
            case _:
                changes = True
    return IndexedName(members=tuple(members), changes=changes)

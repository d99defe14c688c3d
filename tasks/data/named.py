"""Data sets in the layout of the hub that the user of a task names by its settings."""

from __future__ import annotations

import re
from pathlib import Path

from ..base import Sources
from .sources import DatasetId, local_copies, split_files

_REPO = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def check_names(repo: str, revision: str, example: str) -> None:
    """Refuses names that the hub does not have.

    Args:
        repo: Given as the setting `dataset`.
        revision: Commit, or nothing where only the mirror is meant.
        example: A repository, for the message.

    Raises:
        ValueError: The repository is not `ORG/NAME`, or the revision is no whole commit.
    """
    if not _REPO.fullmatch(repo):
        raise ValueError(f"dataset is {repo!r}; it takes ORG/NAME, such as {example}")
    if revision and not _COMMIT.fullmatch(revision):
        raise ValueError(f"revision is {revision!r}; it takes a commit of the hub in full, 40 hex digits")


def only_config(repo: str, revision: str, split: str, sources: Sources) -> str:
    """The one configuration with this split in the first copy of a repository on this machine; else `default`.

    Raises:
        ValueError: There are several, and none is set.
    """
    copies = local_copies(repo, revision, sources, kind="datasets").values()
    for folder in (copy for copy in copies if isinstance(copy, Path)):
        configs = [
            name
            for name in sorted(each.name for each in folder.glob("*"))
            if split_files(folder, DatasetId(repo, name, revision), split)
        ]
        if len(configs) > 1:
            raise ValueError(f"{repo} has several configurations; set config to one of {', '.join(configs)}")
        if configs:
            return configs[0]
    return "default"

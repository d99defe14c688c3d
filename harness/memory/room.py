"""The memory that is there for the cells of a run, and how they share it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path

from .oom_kills import CGROUPS, PROC, control_groups


class MemoryRoom:
    """Lets a cell begin once its need fits beside those of the cells that run.

    Args:
        there_bytes: The memory that all of them may use.
        workers: How many may run at a time; one whose need is not known counts as an equal share.
    """

    def __init__(self, there_bytes: int, workers: int) -> None:
        self.there_bytes = there_bytes
        self._share = there_bytes // workers
        self._taken: list[int] = []
        self._changed = threading.Condition()
        self._closed = False

    @contextmanager
    def take(self, need_bytes: int | None) -> Iterator[None]:
        """Waits until the need fits, and gives it back after the block; what fits nowhere waits until nothing runs.

        Raises:
            CancelledError: `close` was called.
        """
        need = self._share if need_bytes is None else need_bytes
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._fits(need))
            if self._closed:
                raise CancelledError
            self._taken.append(need)
        try:
            yield
        finally:
            with self._changed:
                self._taken.remove(need)
                self._changed.notify_all()

    def close(self) -> None:
        """Lets nobody in any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _fits(self, need: int) -> bool:
        return not self._taken or sum(self._taken) + need <= self.there_bytes


def memory_there(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Bytes that new processes may use: those that the machine can give, or that limits of control groups leave.

    Args:
        proc: Where the proc file system is mounted.
        cgroups: Where control groups are mounted.
    """
    free = _numbers(proc / "meminfo")["MemAvailable:"] * 1024
    return min([free, *(left for group in _groups_around(proc, cgroups) if (left := _left_in(group)) is not None)])


def memory_limit(proc: Path = PROC, cgroups: Path = CGROUPS) -> tuple[int, Path] | None:
    """The least limit in bytes of the control groups around this process, and its file.

    None without a limit below the memory of the machine.
    """
    limits = (
        (limit, group / file)
        for group in _groups_around(proc, cgroups)
        for file in _FILES
        if (limit := _limit_in(group / file)) is not None and limit < _numbers(proc / "meminfo")["MemTotal:"] * 1024
    )
    return min(limits, default=None)


def _groups_around(proc: Path, cgroups: Path) -> Iterator[Path]:
    """Folders of this process's control groups and of the groups around them, whose limits hold inside too."""
    for group in control_groups(proc, cgroups):
        yield from (each for each in (group, *group.parents) if each.is_relative_to(cgroups))


_FILES = {
    "memory.max": ("memory.current", "inactive_file"),
    "memory.limit_in_bytes": ("memory.usage_in_bytes", "total_inactive_file"),
}
"""By the file of a control group's limit, version 2 and 1: the file of its usage, and how much of it can make way."""


def _left_in(group: Path) -> int | None:
    """What the limit of a control group leaves; files that it holds in memory can make way."""
    for file, (usage, cached) in _FILES.items():
        if (limit := _limit_in(group / file)) is not None:
            used = int((group / usage).read_text(encoding="utf-8"))
            return max(0, limit - used + _numbers(group / "memory.stat").get(cached, 0))
    return None


def _limit_in(file: Path) -> int | None:
    text = file.read_text(encoding="utf-8").strip() if file.exists() else ""
    return int(text) if text.isdecimal() else None


def _numbers(file: Path) -> dict[str, int]:
    """The first number of each line `NAME NUMBER`, by the name."""
    lines = (line.split() for line in file.read_text(encoding="utf-8").splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}

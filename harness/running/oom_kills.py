"""Whether the system killed a process of this control group for lack of memory: one that it killed cannot tell.

The machine's own count is of no use: it says of a process that somebody else killed that it ran out of memory, where
another program on the machine did.
"""

from __future__ import annotations

from pathlib import Path

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
_COUNTER = "oom_kill"


def count_oom_kills(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Out-of-memory kills so far in this process's control group, version 2 or 1; 0 where none is told.

    Args:
        proc: Where the kernel tells the group.
        cgroups: Where control groups are.
    """
    file = proc / "self" / "cgroup"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return max((_counted(counter) for line in lines for counter in _counters(line, cgroups)), default=0)


def _counters(line: str, cgroups: Path) -> list[Path]:
    """Where a group's kills are counted, by its line `ID:CONTROLLERS:/PATH`; nowhere by a line of other controllers."""
    _, controllers, path = line.split(":", 2)
    own = path.removeprefix("/")
    if not controllers:
        return [cgroups / own / "memory.events", cgroups / "unified" / own / "memory.events"]
    return [cgroups / "memory" / own / "memory.oom_control"] if "memory" in controllers.split(",") else []


def _counted(file: Path) -> int:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.split()[:1] == [_COUNTER])

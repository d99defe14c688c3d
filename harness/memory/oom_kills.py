"""Counts the processes of this control group that the system killed for lack of memory: they cannot report it.

The machine's own count is not used: it also grows when another program runs out of memory, and a cell killed for some
other reason at that moment would count as out of memory.
"""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
_COUNTER = "oom_kill"


def count_oom_kills(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Out-of-memory kills so far in this process's control group, version 2 or 1; 0 if the kernel does not say.

    Args:
        proc: Where the proc file system is mounted.
        cgroups: Where control groups are mounted.
    """
    counters = (
        group / name for group in control_groups(proc, cgroups) for name in ("memory.events", "memory.oom_control")
    )
    return max(map(_counted, counters), default=0)


def control_groups(proc: Path, cgroups: Path) -> list[Path]:
    """Folders of this process's control group that may tell of its memory, of version 2 and 1; some may not exist."""
    file = proc / "self" / "cgroup"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [folder for line in lines for folder in _folders(line, cgroups)]


def _folders(line: str, cgroups: Path) -> list[Path]:
    """The folders of a group, from its line `ID:CONTROLLERS:/PATH`; none for controllers of other things."""
    _, controllers, path = line.split(":", 2)
    own = path.removeprefix("/")
    if not controllers:
        return [cgroups / own, cgroups / "unified" / own]
    return [cgroups / "memory" / own] if "memory" in controllers.split(",") else []


def _counted(file: Path) -> int:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.split()[:1] == [_COUNTER])

"""Counts the processes of this control group that the system killed for lack of memory: they cannot report it.

The machine's own count is not used: it also grows when another program runs out of memory, and a cell killed for some
other reason at that moment would count as out of memory.
"""

from __future__ import annotations

from pathlib import Path

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
_COUNTER = "oom_kill"


def count_oom_kills(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Out-of-memory kills so far in this process's control group, version 2 or 1; 0 if the kernel does not say.

    Args:
        proc: Where the proc file system is mounted.
        cgroups: Where control groups are mounted.
    """
    file = proc / "self" / "cgroup"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return max((_counted(counter) for line in lines for counter in _counters(line, cgroups)), default=0)


def _counters(line: str, cgroups: Path) -> list[Path]:
    """Files that may count a group's kills, from its line `ID:CONTROLLERS:/PATH`; none for other controllers."""
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

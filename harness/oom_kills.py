"""Whether the system killed processes for lack of memory: a process that it killed cannot tell."""

from __future__ import annotations

from pathlib import Path

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
_COUNTER = "oom_kill"


def count_oom_kills(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Out-of-memory kills so far, in this process's control group and on the whole machine; 0 where none is told.

    Args:
        proc: Where the kernel's counters are.
        cgroups: Where control groups (version 2) are.
    """
    return sum(_counted(file) for file in (proc / "vmstat", _own_group(proc, cgroups) / "memory.events"))


def _own_group(proc: Path, cgroups: Path) -> Path:
    file = proc / "self" / "cgroup"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    return cgroups / own


def _counted(file: Path) -> int:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.split()[:1] == [_COUNTER])

"""Tests of harness/memory/room.py: the memory that is there. How cells share it is tested with the local executor."""

from __future__ import annotations

from pathlib import Path

import pytest

from hedgebench.harness.memory.room import memory_limit, memory_there


def write(folder: Path, **texts: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    write(tmp_path / "proc", meminfo="MemTotal: 9000 kB\nMemAvailable: 4000 kB\nHugePages_Total: 0\n")
    write(tmp_path / "proc" / "self", cgroup="4:memory:/c\n3:cpu:/c\n0::/a\n")
    return tmp_path / "proc"


def test_without_a_limit_it_is_what_the_machine_has_left(proc: Path, tmp_path: Path) -> None:
    assert memory_there(proc, tmp_path) == 4000 * 1024
    write(tmp_path / "a", memory__max="max\n", memory__current="5\n", memory__stat="inactive_file 1\n")
    assert memory_there(proc, tmp_path) == 4000 * 1024


def test_a_limit_of_the_control_group_leaves_what_is_not_held(proc: Path, tmp_path: Path) -> None:
    write(
        tmp_path / "a", memory__max="3000000\n", memory__current="1000000\n", memory__stat="anon 5\ninactive_file 7\n"
    )
    assert memory_there(proc, tmp_path) == 2_000_007
    assert memory_limit(proc, tmp_path) == (3_000_000, tmp_path / "a" / "memory.max")


def test_a_limit_of_a_group_of_the_first_version_counts_too(proc: Path, tmp_path: Path) -> None:
    group = tmp_path / "memory" / "c"
    write(
        group,
        memory__limit_in_bytes="3000\n",
        memory__usage_in_bytes="4000\n",
        memory__stat="total_inactive_file 500\n",
    )
    assert memory_there(proc, tmp_path) == 0
    assert memory_limit(proc, tmp_path) == (3000, group / "memory.limit_in_bytes")
    write(group, memory__limit_in_bytes="9223372036854771712\n")
    assert memory_limit(proc, tmp_path) is None
    assert memory_there(proc, tmp_path) == 4000 * 1024


def test_a_limit_of_a_group_around_the_own_one_counts_too(proc: Path, tmp_path: Path) -> None:
    write(proc / "self", cgroup="0::/user.slice/session.scope\n")
    around, own = tmp_path / "user.slice", tmp_path / "user.slice" / "session.scope"
    write(around, memory__max="2000000\n", memory__current="500000\n", memory__stat="inactive_file 3\n")
    write(own, memory__max="max\n", memory__current="1000\n", memory__stat="inactive_file 0\n")
    assert memory_there(proc, tmp_path) == 1_500_003
    assert memory_limit(proc, tmp_path) == (2_000_000, around / "memory.max")

"""Tests of harness/memory/oom_kills.py."""

from __future__ import annotations

from pathlib import Path

from hedgebench.harness.memory.oom_kills import count_oom_kills


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def test_kills_are_counted_in_the_own_control_group_and_not_on_the_machine(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/a/b\n")
    write(tmp_path / "proc/vmstat", "nr_free_pages 7\noom_kill 2\n")
    write(tmp_path / "cgroup/memory.events", "oom_kill 9\n")
    write(tmp_path / "cgroup/a/b/memory.events", "oom 9\noom_kill 3\noom_group_kill 9\n")
    assert count_oom_kills(tmp_path / "proc", tmp_path / "cgroup") == 3


def test_groups_of_the_first_version_count_too(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "5:cpu,cpuacct:/\n4:memory:/c\n1:name=systemd:/\n0::/\n")
    write(tmp_path / "cgroup/memory/c/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    write(tmp_path / "cgroup/memory/memory.oom_control", "oom_kill 7\n")
    assert count_oom_kills(tmp_path / "proc", tmp_path / "cgroup") == 4


def test_where_nothing_is_told_of_the_own_group_nothing_is_counted(tmp_path: Path) -> None:
    assert count_oom_kills(tmp_path, tmp_path) == 0
    write(tmp_path / "proc/self/cgroup", "0::/\n")
    write(tmp_path / "proc/vmstat", "oom_kill 2\n")
    assert count_oom_kills(tmp_path / "proc", tmp_path / "cgroup") == 0

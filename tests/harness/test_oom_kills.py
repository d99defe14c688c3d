"""Tests of harness/oom_kills.py."""

from __future__ import annotations

from pathlib import Path

from hedgebench.harness.oom_kills import count_oom_kills


def test_kills_are_counted_for_the_machine_and_for_the_own_control_group(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "cgroup/a/b").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/a/b\n", encoding="utf-8")
    (tmp_path / "proc/vmstat").write_text("nr_free_pages 7\noom_kill 2\n", encoding="utf-8")
    (tmp_path / "cgroup/a/b/memory.events").write_text("oom 9\noom_kill 3\noom_group_kill 9\n", encoding="utf-8")
    assert count_oom_kills(tmp_path / "proc", tmp_path / "cgroup") == 5


def test_where_nothing_is_told_nothing_is_counted(tmp_path: Path) -> None:
    assert count_oom_kills(tmp_path, tmp_path) == 0

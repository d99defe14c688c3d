"""Places that are full, read-only or missing, and limits of memory and descriptors: each is told, and costs no cell."""

from __future__ import annotations

import resource
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hedgebench.harness.memory.oom_kills import CGROUPS, PROC, control_groups

from .disturbed import CELLS, PLAN, Run, litter

MOUNTS = ("unshare", "-rm", "sh", "-ec")


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("p"))


def may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    done = subprocess.run([*MOUNTS, "mount -t tmpfs tmpfs /mnt"], capture_output=True, check=False)
    return done.returncode == 0


mounts = pytest.mark.skipif(not may_mount(), reason="the system does not let users mount file systems")
BENCH = shlex.join([sys.executable, "-m", "hedgebench", *PLAN, "--output", "out", "--quiet"])


def in_mounts(run: Run, script: str) -> subprocess.CompletedProcess[str]:
    """A shell script with mounts of its own; `$BENCH` is the command."""
    return subprocess.run(
        [*MOUNTS, script],
        cwd=run.folder,
        env={**run.environment(), "BENCH": BENCH},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@mounts
@pytest.mark.parametrize("size_kb", [40, pytest.param(160, marks=pytest.mark.slow)])
def test_a_full_disk_is_told_and_the_run_goes_on_once_there_is_room(run: Run, size_kb: int) -> None:
    done = in_mounts(
        run,
        f"mkdir out kept; mount -t tmpfs -o size={size_kb}k tmpfs out; $BENCH && exit 9 || echo code $?;"
        "mount -o remount,size=50m out; $BENCH; cp -a out/. kept/",
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "code 2" in done.stdout
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    (run.folder / "kept").rename(run.folder / "whole")
    assert len(list((run.folder / "whole" / "cells").glob("*.json"))) == CELLS
    assert list((run.folder / "whole").rglob("*.tmp")) == []


@mounts
@pytest.mark.parametrize(("place", "code"), [("out", 2), ("cache", 0), pytest.param("tmp", 0, marks=pytest.mark.slow)])
def test_a_read_only_place_is_told_or_replaced(run: Run, place: str, code: int) -> None:
    done = in_mounts(
        run, f"mkdir -p {place}; mount -t tmpfs tmpfs {place}; mount -o remount,ro {place}; $BENCH || echo code $?"
    )
    assert "Traceback" not in done.stdout + done.stderr
    assert ("code 2" in done.stdout) == (code == 2), (done.stdout, done.stderr)
    if place != "tmp":
        assert "Read-only file system" in done.stderr
    if code == 0:
        assert len(list((run.folder / "out" / "cells").glob("*.json"))) == CELLS


@pytest.mark.parametrize(
    ("kind", "limit"),
    [(resource.RLIMIT_NOFILE, 16), pytest.param(resource.RLIMIT_AS, 600_000_000, marks=pytest.mark.slow)],
    ids=["descriptors", "memory"],
)
def test_too_low_a_limit_is_told_and_leaves_nothing_behind(run: Run, kind: int, limit: int) -> None:
    script = (
        "import resource, sys, runpy\n"
        f"resource.setrlimit({kind}, ({limit}, {limit}))\n"
        "sys.argv[0] = 'bench'\n"
        "runpy.run_module('hedgebench', run_name='__main__')\n"
    )
    command = [sys.executable, "-c", script, *PLAN, "--output", "out", "--quiet"]
    environment = run.environment()
    done = subprocess.run(
        command, cwd=run.folder, env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode in (2, 3), (done.stdout, done.stderr)
    assert "Traceback" not in done.stdout
    if kind == resource.RLIMIT_NOFILE:  # before or behind what Python's own server of processes prints as it dies
        assert [line for line in done.stderr.splitlines() if "raise the limit of open files (ulimit -n)" in line]
    run.check()


@pytest.mark.slow
def test_a_temporary_folder_with_a_long_name_is_used(run: Run) -> None:
    folder = run.folder / ("long-" * 20)
    folder.mkdir()
    process = run.start(env={"TMPDIR": str(folder)})
    out, err = process.communicate(timeout=180)
    assert (process.returncode, err) == (0, ""), out
    assert litter(folder) == []


LIMITS = ("memory.max", "memory.limit_in_bytes")
"""Files of control groups, version 2 and 1, that limit the memory."""
LIMIT_BYTES = 2**30


@pytest.fixture
def limited_group() -> Iterator[Path]:
    """The limit's file of a control group below this process's own; skipped where none can be made.

    Version 2 lets nobody divide the memory of a group with processes in it, unless it is the root.
    """
    for own in control_groups(PROC, CGROUPS):
        group = own / f"hedgebench-{uuid.uuid4().hex}"
        with suppress(OSError):
            group.mkdir()
            for file in (path for name in LIMITS if (path := group / name).exists()):
                file.write_text(str(LIMIT_BYTES), encoding="ascii")
                yield file
                group.rmdir()
                return
            group.rmdir()
    pytest.skip("no control group of memory can be made here")


@pytest.mark.slow
def test_a_cell_that_the_system_kills_under_a_limit_of_memory_costs_no_other_and_its_record_names_the_limit(
    run: Run, limited_group: Path
) -> None:
    """A hybrid of very many features needs several gigabytes, and the run learns that there is less."""
    models = "softmax,hedgehog:feature_dim=2000000,elu"
    plan = [*PLAN[:2], models, *PLAN[3:], "--seeds", "0", "--output", "out", "--quiet"]
    command = shlex.join([sys.executable, "-m", "hedgebench", *plan])
    done = subprocess.run(
        ["sh", "-c", f"echo $$ > {limited_group.parent}/cgroup.procs; exec {command}"],
        cwd=run.folder,
        env=run.environment(),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    run.check()
    found = {record.model.partition(":")[0]: record for record in run.store.records().records}
    assert [found[model].status for model in ("softmax", "hedgehog", "elu")] == ["ok", "oom", "ok"]
    assert found["hedgehog"].error is not None
    assert f"its control group may hold {LIMIT_BYTES:,} bytes ({limited_group})" in found["hedgehog"].error.message
    assert [note for note in found["hedgehog"].notes if "GiB were there" in note]
    assert done.returncode == 0, (done.stdout, done.stderr)

"""However a run is killed, stopped or started twice: no finished cell is lost, and the leaderboard is the same.

`make faults KILLS=200 SEED=1` sends more signals than the tests do.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from .disturbed import Run

KILLS = int(os.environ.get("KILLS", "8"))
PER_RUN = 5
"""Signals during one command; a run in which every cell was killed still has to end."""
SEED = int(os.environ.get("SEED", "0"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("u"))
    run.finish()
    return run


def disturbed_until_done(folder: Path, generator: random.Random, kills: int) -> Run:
    """A run that was disturbed while it had cells to measure, and was then finished."""
    run = Run(folder)
    while len(run.finished) < 8 and run.sent.total() < kills:
        run.disturb(generator, min(PER_RUN, kills - run.sent.total()))
    run.finish()
    return run


def test_nothing_is_lost_and_the_leaderboard_is_that_of_an_undisturbed_run(
    undisturbed: Run, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    generator, sent = random.Random(SEED), 0
    while sent < KILLS:
        folder = tmp_path_factory.mktemp("k")
        run = disturbed_until_done(folder, generator, KILLS - sent)
        assert run.leaderboard() == undisturbed.leaderboard()
        sent += run.sent.total()
        with capsys.disabled():
            print(f"\n{sent} of {KILLS} signals, last: {dict(sorted(run.sent.items()))}", flush=True)
        shutil.rmtree(folder)


def test_of_two_runs_in_one_folder_one_is_refused_and_the_other_is_undisturbed(
    undisturbed: Run, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = Run(tmp_path_factory.mktemp("two"))
    both = [run.start(), run.start()]
    told = [process.communicate(timeout=180) for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 2], told
    assert "is running in out" in told[codes.index(2)][1]
    run.finish()
    assert run.leaderboard() == undisturbed.leaderboard()


@pytest.mark.slow
def test_a_clock_that_jumps_changes_no_number(undisturbed: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    run = Run(tmp_path_factory.mktemp("clock"))
    (run.folder / "sitecustomize.py").write_text(
        "import random, time\nreal = time.time\ntime.time = lambda: real() + random.choice((-4e7, 0.0, 4e7))\n",
        encoding="utf-8",
    )
    path = f"{run.folder}{os.pathsep}{run.environment()['PYTHONPATH']}"
    process = run.start(env={"PYTHONPATH": path})
    out, err = process.communicate(timeout=180)
    assert (process.returncode, err) == (0, ""), out
    run.check()
    assert run.leaderboard() == undisturbed.leaderboard()

"""A run that is disturbed: its processes by their roles, and what must hold however often it was stopped."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hedgebench.results.store import DONE_STATUSES, RunStore

ROOT = Path(__file__).parents[2]
MARK = "HEDGEBENCH_DISTURBED"
"""Variable that every process of a run inherits."""

PLAN = ["run", "--models", "softmax,elu,relu,exp", "--tasks", "associative_recall", "--seeds", "0,1", "--workers", "2"]
for _pair in (
    *("train.steps=2", "train_samples=32", "validation_samples=8", "test_samples=8", "vocab_size=8", "length=8"),
):
    PLAN += ["--set", _pair]
CELLS = 8
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP)


@dataclass
class Run:
    """One plan in one folder, which is run again until nothing is missing.

    Attributes:
        folder: The folder that commands run in; the results are in `out` below.
        finished: Content of each cell's file since it was first seen with a result.
        sent: Signals by role and name.
    """

    folder: Path
    finished: dict[str, bytes] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def store(self) -> RunStore:
        return RunStore(self.folder / "out")

    def environment(self, **more: str) -> dict[str, str]:
        own = {"XDG_CACHE_HOME": str(self.folder / "cache"), "HF_HOME": str(self.folder / "hf"), "HF_HUB_OFFLINE": "1"}
        own |= {"PYTHONPATH": str(ROOT / ".pyroot"), "TMPDIR": str(self.folder / "tmp"), "OMP_NUM_THREADS": "1"}
        (self.folder / "tmp").mkdir(exist_ok=True)
        return {**os.environ, **own, MARK: self.mark, **more}

    def start(self, *more: str, output: str = "out", env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Starts the command as the leader of a session."""
        return subprocess.Popen(
            [sys.executable, "-m", "hedgebench", *PLAN, "--output", output, "--quiet", *more],
            cwd=self.folder,
            env=self.environment(**(env or {})),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def disturb(self, generator: random.Random, kills: int) -> None:
        """Runs the command once, and sends signals to its processes at random moments until it ends."""
        process = self.start()
        for _ in range(kills):
            time.sleep(generator.uniform(0.05, 2.0))
            roles = self.processes(process.pid)
            if process.poll() is not None or not roles:
                break
            role = generator.choice(sorted(roles))
            how = generator.choice(SIGNALS)
            if self._send(generator.choice(roles[role]), how):
                self.sent[f"{role} {how.name}"] += 1
        out, err = process.communicate(timeout=180)
        # Python itself, as it starts and ends, prints where an interrupt came.
        assert "Traceback" not in out + err or "KeyboardInterrupt" in err, out + err
        assert process.returncode in (0, 3, 130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT), (out, err)
        self.check()

    def _send(self, pid: int, how: signal.Signals) -> bool:
        try:
            os.kill(pid, how)
            if how == signal.SIGSTOP:
                time.sleep(0.2)
                os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            return False
        return True

    def processes(self, runner: int) -> dict[str, list[int]]:
        """The processes of the run by role: `runner`, `server`, `cell` and `tracker` of shared resources."""
        found: dict[str, list[int]] = {}
        for pid in self.alive():
            found.setdefault(_role(pid, runner), []).append(pid)
        found.pop("", None)
        return found

    def alive(self) -> list[int]:
        """Every process that has inherited the mark and has not ended."""
        return [pid for pid in (int(path.name) for path in Path("/proc").glob("[0-9]*")) if self._is_ours(pid)]

    def _is_ours(self, pid: int) -> bool:
        try:
            ours = f"{MARK}={self.mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            return ours and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    def check(self) -> None:
        """No process is left, what was finished is as it was, and no cell stands twice."""
        end_s = time.monotonic() + 20
        while (left := self.alive()) and time.monotonic() < end_s:
            time.sleep(0.05)
        assert left == []
        if not self.store.cells.is_dir():
            return
        loaded = self.store.records()
        assert loaded.corrupt == ()
        assert len({(r.model, r.task, r.seed) for r in loaded.records}) == len(loaded.records) <= CELLS
        for record in loaded.records:
            if record.status in DONE_STATUSES:
                content = (self.store.cells / f"{record.cell_id}.json").read_bytes()
                assert self.finished.setdefault(record.cell_id, content) == content
        assert self.finished.keys() <= {record.cell_id for record in loaded.records}

    def finish(self) -> None:
        """Runs the command undisturbed: it ends well, and leaves no litter."""
        process = self.start()
        out, err = process.communicate(timeout=180)
        assert (process.returncode, err) == (0, ""), out
        self.check()
        assert len(self.finished) == CELLS
        assert litter(self.folder / "tmp") == []
        assert list((self.store.root / "checkpoints").iterdir()) == []
        assert list(self.store.root.rglob("*.tmp")) == []

    def leaderboard(self) -> bytes:
        return (self.store.root / "leaderboard.csv").read_bytes()


def litter(folder: Path) -> list[Path]:
    """What lies in a folder for temporary files, without the cache that torch keeps there."""
    return [path for path in folder.iterdir() if not path.name.startswith("torchinductor")]


def _role(pid: int, runner: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return ""
    if pid == runner:
        return "runner"
    if "resource_tracker" in command:
        return "tracker"
    if "forkserver" in command:
        return "server" if parent == runner else "cell"
    return ""

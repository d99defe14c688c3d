"""A mutant's trial: the tests that concern its module, in a copy of the checkout, up to the first failure."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .draw import FLOORS, Mutant

_NEEDED = (*FLOORS, "tests", "docs", "examples", ".pyroot")
"""Folders that the copy has; of the root's files it has all."""

_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+(?:\[.*?\](?= - |$))?)(?: - (.*))?$", re.MULTILINE)


@dataclass(frozen=True)
class Limits:
    """Seconds.

    Attributes:
        test_s: For one test; a mutant whose test takes longer is dead.
        mutant_s: For all tests of a mutant; the test that runs then is the last.
    """

    test_s: float = 60.0
    mutant_s: float = 120.0


@dataclass(frozen=True)
class Trial:
    """What became of a mutant.

    Attributes:
        outcome: `killed`, `timeout` if a test took too long, or `survived`.
        seconds: Of the tests' process.
        by: The test that failed, or the file that could not be imported; empty for a survivor.
        cut: Whether a survivor's time was over before all its tests had run.
    """

    outcome: str
    seconds: float
    by: str = ""
    cut: bool = False


def copy_checkout(root: Path, folder: Path) -> Path:
    """Copies what tests need, with what Python has compiled of it, into a new folder."""
    folder.mkdir(parents=True)
    left_out = shutil.ignore_patterns("runs", ".hypothesis", ".*_cache")
    for path in root.iterdir():
        if path.is_file():
            shutil.copy2(path, folder)
        elif path.name in _NEEDED:
            shutil.copytree(path, folder / path.name, symlinks=True, ignore=left_out)
    return folder


def concerning_tests(root: Path, file: str) -> list[str]:
    """Test files that concern a module, in the order in which they run.

    First its own, then those of its room that import it or use its name, those elsewhere that import it, those of the
    modules that import it, the rest of its room, those of its floor's hall, which hold for all rooms, of a task the one
    that pins what tasks declare, and those of the rooms of the modules that import it.
    """
    module = Path(file).with_suffix("")
    parent, name = re.escape(".".join(module.parts[:-1])), re.escape(module.name)
    imports, uses = re.compile(rf"hedgebench\.{parent}(\.| import\b.*\b){name}\b"), re.compile(rf"\b{name}\b")
    room, found = root / "tests" / module.parent, []
    users = {
        root / "tests" / path.relative_to(root).with_name(f"test_{path.name}")
        for path in (path for floor in FLOORS for path in (root / floor).rglob("*.py"))
        if re.search(rf"^\s*from \.[\w.]*\b{name} import ", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    rooms = {path.parent for path in users}
    for path in (root / "tests").rglob("test_*.py"):
        text, is_beside = path.read_text(encoding="utf-8"), path.parent == room
        order = (
            is_beside and path.stem == f"test_{module.name}",
            is_beside and imports.search(text) is not None,
            is_beside and uses.search(text) is not None,
            imports.search(text) is not None,
            path in users,
            is_beside,
            path.parent == root / "tests" / module.parts[0],
            path.name == "test_protocols.py" and module.parts[0] == "tasks",
            path.parent in rooms,
        )
        if any(order):
            found.append((order.index(True), path.relative_to(root).as_posix()))
    return [path for _, path in sorted(found)]


@dataclass
class Bench:
    """A copy of the checkout in which one set of tests runs at a time.

    Attributes:
        folder: The copy's root.
        limits: For the tests.
        process: The tests that run now or ran last.
    """

    folder: Path
    limits: Limits
    process: subprocess.Popen[str] | None = None

    def try_mutant(self, mutant: Mutant) -> Trial:
        """Runs a mutant's tests up to the first failure; the copy is as it was afterwards."""
        module, tests = self.folder / mutant.file, concerning_tests(self.folder, mutant.file)
        original, began = module.read_text(encoding="utf-8"), time.monotonic()
        module.write_text(mutant.source, encoding="utf-8")
        try:
            code, output = self._pytest("--exitfirst", *tests) if tests else (0, "")
        finally:
            module.write_text(original, encoding="utf-8")
        seconds, found = round(time.monotonic() - began, 1), _FAILED.search(output)
        if found or code is None:
            by_time = code is None or "from pytest-timeout" in output
            return Trial("timeout" if by_time else "killed", seconds, found[1] if found else tests[0])
        is_cut = "session-timeout" in output
        if code in (0, 5) or is_cut:  # 5: every test is marked slow
            return Trial("survived", seconds, cut=is_cut)
        return Trial("killed", seconds, tests[0])  # which crashed, or could not start

    def failing(self, tests: set[str]) -> set[str]:
        """Those of the tests, and of the files that were not imported, that fail here as they are.

        Raises:
            RuntimeError: no test can run here.
        """
        found: set[str] = set()
        for options in ((), ("--collect-only",)):
            if some := sorted(test for test in tests if ("::" in test) == (not options)):
                code, output = self._pytest(*options, *some)
                if code not in (0, 1, 2):
                    raise RuntimeError(f"pytest ended with {code} where nothing is mutated:\n{output[-2000:]}")
                found |= {each[1] for each in _FAILED.finditer(output)}
        return found

    def stop(self) -> None:
        """Ends the tests that run, with the processes that they started."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def _pytest(self, *arguments: str) -> tuple[int | None, str]:
        """Exit code, or None if the time was over, and output."""
        options = ["-q", "--no-header", "--tb=line", "-rfE", "-p", "no:cacheprovider"]
        options += [f"--timeout={self.limits.test_s}", f"--session-timeout={self.limits.mutant_s}"]
        environment = {**os.environ, "PYTHONPATH": str(self.folder / ".pyroot"), "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        with subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, *arguments], cwd=self.folder, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        ) as self.process:  # fmt: skip
            try:
                output, _ = self.process.communicate(timeout=self.limits.mutant_s + 2 * self.limits.test_s)
                return self.process.returncode, output
            except subprocess.TimeoutExpired:
                return None, ""
            finally:
                self.stop()

"""`bench` from a Python session, in a process of its own: cells stay isolated, and no script needs a main guard.

Processes of cells import the main module of the process that starts them again. Here that is `python -m hedgebench`,
and never the user's script or notebook, whose objects travel pickled by value.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from ...adapters.mechanisms.declaration import Mechanism
from ...results.names import UsageError
from ...tasks.base import Task
from .. import registry
from ..temporary import temporary_folder
from .called import MARK
from .notebook import NotebookProgress, is_notebook
from .own_code import own_code

_OK, _USAGE, _FAILED, _INTERRUPTED = 0, 2, 3, 130
_ERROR = "bench: error: "
_TAIL = 20
"""Lines of the output that an unexpected end is reported with."""


def register(*objects: Mechanism | Task) -> None:
    """Makes mechanisms and tasks of your own known by their names, in this process and in the runs that it starts.

    An object may use classes and functions of a script or a notebook. Registering another object under the name of an
    own one replaces it. Cells are measured again if the code of an object has changed.

    Raises:
        UsageError: A built-in object or a plugin has the name, or the object cannot be pickled.
        TypeError: It is neither a mechanism nor a task.
    """
    for each in objects:
        if not isinstance(each, Mechanism | Task):
            raise TypeError(f"{each!r} is neither a Mechanism nor a task with info, identify, load, predict and score")
        try:
            registry.add_own(registry.OwnObject(each, own_code(each)))
        except TypeError as error:
            raise UsageError(f"{type(each).__name__} cannot be handed to the processes of a run: {error}") from error


def names_of(given: str | Mechanism | Task | Iterable[str | Mechanism | Task]) -> str:
    """Specs as one comma-separated text; objects among them are registered, and stand under their names."""
    parts = [given] if isinstance(given, str | Mechanism | Task) else list(given)
    own = [part for part in parts if not isinstance(part, str)]
    register(*own)
    return ",".join(part if isinstance(part, str) else registry.OwnObject(part, "").name for part in parts)


def call_bench(arguments: Sequence[str], *, quiet: bool, allows_failures: bool = True) -> None:
    """Runs a command to its end, and shows its output as it comes.

    Args:
        arguments: The command, without its caller.
        quiet: Show no progress.
        allows_failures: Whether cells without a result are no error.

    Raises:
        UsageError: The command line is wrong; the message is that of the command.
        KeyboardInterrupt: This process was interrupted, and has ended the command.
        RuntimeError: The command ended in another way.
    """
    caller = "notebook" if is_notebook() else "script"
    inherits = caller == "script" and _is_standard_output()
    command = [sys.executable, "-m", "hedgebench", *arguments, f"--caller={caller}"]
    progress = NotebookProgress() if caller == "notebook" and not quiet else None
    with temporary_folder() as folder:
        process = subprocess.Popen(
            command,
            env=_environment(folder, inherits),
            stdin=subprocess.PIPE,  # its end tells the command that this process is gone
            stdout=None if inherits else subprocess.PIPE,
            stderr=subprocess.PIPE if inherits else subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # an interrupt reaches this process alone, which passes it on once
        )
        output, stream = (process.stderr, sys.stderr) if inherits else (process.stdout, sys.stdout)
        assert process.stdin is not None
        assert output is not None
        try:
            tail = _show(output, stream, progress)
            code = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGTERM)
            _show(output, stream, progress)
            raise
        finally:
            process.kill()
            for pipe in (process.stdin, output):
                pipe.close()
            process.wait()
    _check(_OK if code == _FAILED and allows_failures else code, tail)


def _is_standard_output() -> bool:
    """Whether what is printed goes to the process's own output; a test or an editor may have replaced it."""
    try:
        return sys.stdout.fileno() == 1
    except (OSError, ValueError, AttributeError):
        return False


def _environment(folder: Path, inherits: bool) -> dict[str, str]:
    """The environment of the command, which finds the modules that this session finds, and its own objects."""
    sys.stdout.flush()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
    if not inherits:  # Jupyter asks for a terminal's output, whose bars would be text here
        environment.pop("FORCE_COLOR", None)
        environment.pop("TTY_COMPATIBLE", None)
    if own := registry.own_objects():
        (folder / "objects").write_bytes(_pickled(own))
        environment[registry.OWN_OBJECTS] = str(folder / "objects")
    return environment


def _pickled(own: Sequence[registry.OwnObject]) -> bytes:
    import cloudpickle

    try:
        pickled: bytes = cloudpickle.dumps(tuple(own))
    except (TypeError, pickle.PicklingError) as error:
        names = ", ".join(each.name for each in own)
        raise UsageError(f"{names} cannot be handed to the processes of a run: {error}") from error
    return pickled


def _show(output: IO[str], stream: IO[str], progress: NotebookProgress | None) -> list[str]:
    """Passes lines on until the output ends; returns the last ones. A usage error is raised and not shown."""
    tail: list[str] = []
    for line in output:
        if line.startswith(MARK):
            if progress is not None:
                progress.take(line.removeprefix(MARK))
            continue
        tail = [*tail[1 - _TAIL :], line]
        if not any(each.startswith(_ERROR) for each in tail):
            stream.write(line)
            stream.flush()
    return tail


def _check(code: int, tail: Sequence[str]) -> None:
    """Raises what an exit code stands for."""
    if code == _INTERRUPTED:
        raise KeyboardInterrupt
    if code == _USAGE:
        raise UsageError("".join(tail).rpartition(_ERROR)[2].strip())
    if code != _OK:
        raise RuntimeError(f"bench ended with exit code {code}:\n{''.join(tail)}")

"""Places for files that no result depends on: temporary folders, the socket of processes, and a cache to write to."""

from __future__ import annotations

import fcntl
import functools
import multiprocessing.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..results.names import UsageError
from ..tasks.data.sources import cache_folder

PREFIX = "hedgebench.run-"
"""Begins the names of temporary folders, which are locked while they are in use; no other folder may begin so."""

_OF_SERVERS = "hb-"
_MARK = "made-by-hedgebench"
"""File in each of them: a folder without it, whatever its name, is somebody else's."""
_SOCKET_BYTES = 107
"""Longest path of a socket on Linux."""
_BELOW_BYTES = len("/hb-12345678/pymp-12345678/listener-12345678")


@contextmanager
def temporary_folder(prefix: str = PREFIX) -> Iterator[Path]:
    """A folder that is removed after the block, or by `remove_abandoned` if this process is killed before."""
    folder = Path(tempfile.mkdtemp(prefix=f".{prefix}"))
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        (folder / _MARK).touch()
        with suppress(OSError):  # a file system without locks: the folder then is not known to be abandoned
            fcntl.flock(lock, fcntl.LOCK_EX)
        folder = folder.rename(folder.with_name(folder.name.removeprefix(".")))  # others see it locked
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_abandoned() -> None:
    """Removes this user's temporary folders whose processes have ended without removing them."""
    for prefix in (PREFIX, _OF_SERVERS):
        for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            with suppress(OSError):  # another run may remove it at the same time
                _remove_if_abandoned(folder)


def _remove_if_abandoned(folder: Path) -> None:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_uid == os.getuid() and (folder / _MARK).is_file():
            shutil.rmtree(folder)
    finally:
        os.close(lock)


@functools.cache
def place_sockets() -> None:
    """Has multiprocessing make the sockets of this process where their paths are short enough.

    Their folder is removed when the process ends, or by `remove_abandoned`.

    Raises:
        UsageError: There is no such place.
    """
    before = tempfile.gettempdir()
    places = [place for place in (before, "/tmp", "/dev/shm") if _has_room(place)]
    if not places:
        most = _SOCKET_BYTES - _BELOW_BYTES
        raise UsageError(
            f"TMPDIR is {before!r}; processes need a folder to write to whose path has at most {most} bytes"
        )
    stack, tempfile.tempdir = ExitStack(), places[0]
    try:
        tempfile.tempdir = str(stack.enter_context(temporary_folder(_OF_SERVERS)))
        multiprocessing.util.get_temp_dir()  # it keeps to the folder that it makes at its first call
    finally:
        tempfile.tempdir = before
    # Later than multiprocessing removes its own folder in it, which has the priority -100.
    multiprocessing.util.Finalize(None, stack.close, exitpriority=-101)


def _has_room(place: str) -> bool:
    return len(os.fsencode(place)) + _BELOW_BYTES <= _SOCKET_BYTES and os.access(place, os.W_OK | os.X_OK)


@contextmanager
def writable_cache() -> Iterator[str]:
    """Within the block, derived files go to a cache that can be written; gives a note if it is a temporary one.

    The hub's cache stays where it is: it can be read.
    """
    folder = cache_folder()
    if (problem := _problem(folder)) is None:
        yield ""
        return
    before = {name: os.environ.get(name) for name in ("XDG_CACHE_HOME", "HF_HOME")}
    with temporary_folder() as temporary:
        os.environ.setdefault("HF_HOME", str(folder.parent / "huggingface"))
        os.environ["XDG_CACHE_HOME"] = str(temporary)
        try:
            yield f"the cache {folder} cannot be written ({problem}); derived files of this run are not kept"
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _problem(folder: Path) -> str | None:
    """Why nothing can be written into a folder; None if something can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(4096))
            probe.flush()
    except OSError as error:
        return error.strerror or str(error)
    return None

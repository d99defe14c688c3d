"""The one way to write, move and remove what lies in a run's folder: no symbolic link in it is ever followed.

A run's folder may come from anywhere, and with `--fresh` or after a cell whole folders in it are removed. A link in the
place of such a folder would have files written or removed where it points. The folder itself may be a link: its path
is what the user gave.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .atomic import replacing
from .names import UsageError

PROGRESS = "progress"
"""Folder of the messages of cells that run on other machines; nothing in it outlives the run."""

OWN = ("cells", "samples", "plots", "logs", "superseded", "artifacts", "checkpoints", "tensorboard", "paper", PROGRESS)
"""Folders that runs write into."""

_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{32}|\d+)\.tmp")
"""Matches what `replacing` and the check of a new folder leave behind if they are killed."""

_MOST_NAMED = 3


class StoreError(UsageError):
    """A run's folder cannot be read or written."""


@dataclass(frozen=True)
class RunFolder:
    """A run's folder.

    Attributes:
        root: The folder; it need not exist.
    """

    root: Path

    def check(self, path: Path) -> Path:
        """Returns a path below the folder, unless it or a folder above it is a symbolic link.

        Raises:
            StoreError: There is a link, or the path is outside the folder.
        """
        try:
            parts = path.relative_to(self.root).parts
        except ValueError as error:
            raise StoreError(f"{path} is not in the run's folder {self.root}") from error
        if ".." in parts:
            raise StoreError(f"{path} leads out of the run's folder {self.root}")
        below = self.root
        for part in parts:
            below = below / part
            if below.is_symlink():
                raise _refused([below])
        return path

    def refuse_links(self) -> None:
        """Checks that there is no symbolic link in the folders that runs write into.

        Raises:
            StoreError: There is one; the message names it.
        """
        tops = [self.root / name for name in OWN]
        if links := [*filter(Path.is_symlink, tops), *(path for top in tops for path in _below(top))]:
            raise _refused(links)

    def make(self, folder: Path) -> Path:
        """Makes a folder below, and those above it.

        Raises:
            StoreError: It leads through a link.
            OSError: It cannot be made.
        """
        self.check(folder).mkdir(parents=True, exist_ok=True)
        return folder

    def make_writable(self, folder: Path) -> None:
        """Makes a folder as `make` does, and writes an empty file into it.

        Raises:
            StoreError: It leads through a link.
            OSError: It cannot be made or written.
        """
        probe = self.make(folder) / f".probe.{os.getpid()}.tmp"
        probe.write_bytes(b"")
        probe.unlink()

    @contextmanager
    def writing(self, path: Path) -> Iterator[IO[bytes]]:
        """Opens a file that takes the place of `path` once the block has ended; a folder in its place is set aside.

        Raises:
            StoreError: The file cannot be written, or its folder leads through a link.
        """
        self.check(path.parent)
        try:
            if path.is_dir() and not path.is_symlink():
                self.set_aside(path)
            with replacing(path) as file:
                yield file
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror or error}") from error

    def write(self, path: Path, content: bytes) -> None:
        """Writes a file, which is complete or absent.

        Raises:
            StoreError: The file cannot be written, or its folder leads through a link.
        """
        with self.writing(path) as file:
            file.write(content)

    def move(self, path: Path, target: Path) -> None:
        """Gives a file or folder another place in the run's folder; a file there is replaced.

        Raises:
            StoreError: One of the places leads through a link.
            OSError: It cannot be moved.
        """
        self.check(path.parent)
        self.make(target.parent)
        path.replace(target)

    def set_aside(self, path: Path) -> Path:
        """Renames something damaged to `*.corrupt`, so that it can be made again; returns its new name.

        Raises:
            StoreError: It lies behind a link.
            OSError: It cannot be renamed.
        """
        self.check(path.parent)
        numbers = ("", *(f"-{number}" for number in range(2, 10_000)))
        free = (path.with_name(f"{path.name}.corrupt{number}") for number in numbers)
        return path.replace(next(name for name in free if not os.path.lexists(name)))

    def remove(self, path: Path) -> None:
        """Removes a file, or a folder with all that it holds; nothing happens if there is none.

        Raises:
            StoreError: It is a link or lies behind one.
            OSError: It cannot be removed.
        """
        self.check(path)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def remove_litter(self) -> list[Path]:
        """Removes the temporary files of processes that were killed; returns them.

        No other process may write into the folder meanwhile.

        Raises:
            OSError: One cannot be removed.
        """
        folders = [self.root, *(self.root / name for name in OWN)]
        cells = (path for path in (self.root / "checkpoints").glob("*") if path.is_dir() and not path.is_symlink())
        litter = [
            path
            for folder in (*folders, *cells)
            if folder.is_dir() and not folder.is_symlink()
            for path in folder.iterdir()
            if _TEMPORARY.fullmatch(path.name)
        ]
        litter += [
            path for path in (self.root / "artifacts").glob("*.*") if path.is_dir() and ".corrupt" not in path.name
        ]
        litter += [path for path in (self.root / PROGRESS).glob("*.json") if not path.is_symlink()]
        for path in litter:
            self.remove(path)
        return litter


def _below(folder: Path) -> Iterator[Path]:
    """The links below a folder."""
    for here, folders, files in os.walk(folder):
        yield from (path for name in (*folders, *files) if (path := Path(here, name)).is_symlink())


def _refused(links: Iterable[Path]) -> StoreError:
    named = list(links)
    told = [f"{path} -> {path.readlink()}" for path in named[:_MOST_NAMED]]
    more = f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
    return StoreError(
        f"symbolic links in a run's folder are not followed: {', '.join(told)}{more}; take them away, or choose "
        "another folder with --output DIR, which may itself be a link"
    )

"""A folder to write to, and little memory."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest

MEMORY_BYTES = 2**32


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    """This process may take so many addresses more than it has; pyarrow's own pool would reserve many at once."""
    pool = pyarrow.default_memory_pool()
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    has = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (has + MEMORY_BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    pyarrow.set_memory_pool(pool)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory, the same for all inputs: some file systems wait for the disk as a file is written anew."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path_factory.mktemp("fuzz")
        return
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir="/dev/shm") as folder:
        yield Path(folder)

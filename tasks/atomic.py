"""Files that are whole or absent: several workers may write one at once, and any of them may be killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(file: Path) -> Iterator[IO[bytes]]:
    """A handle whose content becomes `file` when the block ends well; of several writers the last one wins."""
    import tempfile

    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            yield handle
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)

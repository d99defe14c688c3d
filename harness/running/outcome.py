"""What became of a cell or of one of its points."""

from __future__ import annotations

from dataclasses import dataclass

from ...results.record import Record
from ...tasks.base import Row


@dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Attributes:
        record: Its record; says why when there is no result.
        rows: Its predictions; empty when there are none.
        log: What the process printed.
    """

    record: Record
    rows: list[Row]
    log: str

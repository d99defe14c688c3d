"""How long the cells of a plan take: those that are done as measured, the others at the rate of done ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ...results.record import Record
from ..costs.training import training_cost
from .reproduce import PaperPlan

SOURCES = ("task", "study", "list")
"""Where the rate of a cell that is left is from: done cells of its task, of its study, or of all listed studies."""

LEGEND = (
    "Hours left are counted: a cell's FLOPs of training at the rate of done cells of its task, else of its study, else "
    "of all listed studies; from: how many cells have which."
)


@dataclass(frozen=True)
class Hours:
    """The time of some cells.

    Attributes:
        taken: Hours that done cells took.
        left: Hours that the others are expected to take, as far as that is known.
        sources: Number of cells that are left, by the source of their rate.
        unknown: Cells that are left and of which nothing is known.
    """

    taken: float
    left: float
    sources: Mapping[str, int]
    unknown: int

    @property
    def left_text(self) -> str:
        """The hours left in words."""
        return f"{self.left:.2f}{without(self.unknown)}" if self.sources or not self.unknown else "not known"


def without(count: int) -> str:
    """What is said behind a sum that leaves out so many cells."""
    return f" without {count} cell{'s' if count > 1 else ''}" if count else ""


class Rates:
    """What done cells of a plan tell of those that are left.

    Args:
        plan: The plan.
        done: Records of done cells by key.
    """

    def __init__(self, plan: PaperPlan, done: Mapping[str, Record]) -> None:
        """Counts every cell once: a cell's key is a hash of all its settings."""
        keyed = {study: {p.cell.key: p for p in cells} for study, cells in plan.cells.items()}
        self._tasks = {study: {key: p.cell.task for key, p in cells.items()} for study, cells in keyed.items()}
        every = {key: p for cells in keyed.values() for key, p in cells.items()}
        self._seconds = {key: sum(done[key].timings_s.values()) for key in every if key in done}
        self._flops = {key: cost.flops for key, p in every.items() if (cost := training_cost(p)) is not None}

    def hours(self, studies: Collection[str]) -> Hours:
        """The time of the cells of some studies, each cell once."""
        cells = {key: study for study in studies for key in self._tasks.get(study, ())}
        taken = sum(self._seconds.get(key, 0.0) for key in cells)
        left = [self._expected(study, key) for key, study in cells.items() if key not in self._seconds]
        known = [found for found in left if found is not None]
        sources = Counter(source for source, _ in known)
        return Hours(taken / 3600, sum(seconds for _, seconds in known) / 3600, sources, len(left) - len(known))

    def _expected(self, study: str, key: str) -> tuple[str, float] | None:
        """Source of the rate, and the seconds that a cell is expected to take; None if nothing is known.

        A cell that trains nothing, or whose FLOPs are not counted, takes the mean of its task's done cells.
        """
        tasks, flops = self._tasks[study], self._flops.get(key)
        own = [other for other in tasks if other in self._seconds]
        same = [other for other in own if tasks[other] == tasks[key]]
        if not flops:
            return ("task", self._total(same) / len(same)) if same else None
        for source, keys in zip(SOURCES, (same, own, list(self._seconds)), strict=True):
            if counted := [other for other in keys if self._flops.get(other)]:
                return source, flops * self._total(counted) / sum(self._flops[other] for other in counted)
        return None

    def _total(self, keys: Collection[str]) -> float:
        return sum(self._seconds[key] for key in keys)

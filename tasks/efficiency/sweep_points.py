"""Measuring point by point: what a point is, which comes next, and what its failure means for the rest.

A task that can take its process down (out of memory, a crash, a call without end) states its points instead of
measuring them all: `points` is a generator that is sent the row of each point before it gives the next, so that a climb
stops where it fails and a search goes on from what it found. The harness measures each point in a process of its own,
keeps its row, and sends kept rows again when a run is resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from ...adapters.base import Adapter, Settings, UnsupportedError
from ...results.record import Status
from ..base import Row, Task
from ..measuring.machine_peak import MACHINE
from .sweep_settings import failure_status, release_memory

Subject: TypeAlias = Literal["model", "layer", "machine"]
Role: TypeAlias = Literal["sweep", "probe", "largest"]

LAYER = "layer_"
"""What a mode's name starts with when the attention layer alone is measured."""

ENDS_A_CLIMB: frozenset[Status] = frozenset({"oom", "timeout"})
"""Statuses that will not be better at a longer length or a larger batch."""


@dataclass(frozen=True)
class Point:
    """One thing to measure.

    Attributes:
        mode: What is done, such as `prefill`.
        seq_len: Tokens of a row.
        batch_size: Rows.
        role: `sweep` for a point that was asked for; `probe` for a trial of whether a batch fits; `largest` for the
            largest batch that did.
        subject: What it is measured on: the whole model, its attention layer alone, or the machine.
    """

    mode: str
    seq_len: int
    batch_size: int
    role: Role = "sweep"
    subject: Subject = "model"

    @property
    def name(self) -> str:
        """A name for messages and files; no other point of the same cell has it."""
        return f"{self.mode}-{self.seq_len}-{self.batch_size}-{self.role}"

    def row(self, status: Status, found: Row) -> Row:
        """The row of predictions of this point."""
        return {**asdict(self), "status": status, **found}


Points: TypeAlias = Generator[Point, Row, None]
"""Gives points and is sent their rows."""


@runtime_checkable
class PointTask(Task, Protocol):
    """A task that is measured point by point."""

    def points(self, settings: Settings, limit: int | None = None) -> Points:
        """The points, each given once the rows of those before are known."""
        ...

    def layer_sizes(self, settings: Settings) -> Mapping[str, int]:
        """What of `heads`, `kv_heads` and `head_dim` differs from the model's in points of the subject `layer`."""
        ...

    def measure(self, subject: Any, point: Point, settings: Settings) -> Row:
        """What was found at a point; a failure is raised.

        Args:
            subject: An `Adapter`, an `AttentionAlone`, or a `Precision`, as the point's subject says.
            point: The point.
            settings: The task's settings.
        """
        ...


def point_of_mode(mode: str, seq_len: int, batch_size: int, role: Role = "sweep") -> Point:
    """The point of a mode; its name says whether the subject is the layer or the model."""
    return Point(mode, seq_len, batch_size, role, "layer" if mode.startswith(LAYER) else "model")


def measured_row(point: Point, measure: Callable[[], Row]) -> Row:
    """The row of a point: what `measure` gives, or the status and message of a failure that is a limit.

    Other exceptions pass: they are mistakes.
    """
    try:
        return point.row("ok", measure())
    except Exception as error:
        status = failure_status(error)
        if status is None:
            raise
        release_memory()
        return point.row(status, {"message": f"{type(error).__name__}: {error}"})


def model_at(point: Point, adapter: Adapter) -> Adapter:
    """The model, where a point is measured on one or on its device.

    Raises:
        UnsupportedError: The point is of the attention layer alone, or of the peaks that layers are held against.
    """
    if point.subject == "layer" or point.mode == MACHINE:
        raise UnsupportedError("the attention layer alone is measured by a run, which builds it")
    return adapter


def run_points(points: Points, measure: Callable[[Point], Row]) -> list[Row]:
    """The rows of all points, one after another in this process."""
    rows: list[Row] = []
    try:
        point = next(points)
        while True:
            rows.append(measured_row(point, lambda point=point: measure(point)))  # type: ignore[misc]
            point = points.send(rows[-1])
    except StopIteration:
        return rows


def climb(mode: str, seq_lens: Iterable[int], batch_of: Callable[[int], int], *, past_failures: bool = False) -> Points:
    """From the shortest length to the longest, or to the first that ran out of memory or time.

    Args:
        mode: What is done.
        seq_lens: Lengths in any order.
        batch_of: Rows at a length.
        past_failures: Measure longer lengths all the same.
    """
    for seq_len in sorted(seq_lens):
        row = yield point_of_mode(mode, seq_len, batch_of(seq_len))
        if row["status"] in ENDS_A_CLIMB and not past_failures:
            return


def search_largest_batch(mode: str, seq_len: int, most: int) -> Points:
    """Finds the largest batch up to `most` that fits, by doubling and bisection, and measures there."""
    fits, fails, batch = 0, most + 1, 1
    while fits + 1 < fails:
        row = yield point_of_mode(mode, seq_len, batch, "probe")
        if row["status"] == "ok":
            fits = batch
        else:
            fails = batch
        batch = min(2 * batch, most) if fails > most else (fits + fails) // 2
    if fits:
        yield point_of_mode(mode, seq_len, fits, "largest")


def of_role(rows: Sequence[Row], role: Role) -> list[Row]:
    """The rows whose points have that role."""
    return [row for row in rows if row["role"] == role]

"""Points of a sweep: what a point is, which one comes next, and what a failure means for the rest.

A measurement can end its process (out of memory, a crash, an endless call). A `PointTask` therefore lists its points
instead of measuring them all: `points` is a generator that receives the row of each point before it yields the next, so
a climb stops where it fails and a search goes on from what it found. The harness measures each point in its own
process, keeps the row, and sends kept rows again when a run is resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from ...adapters.base import Adapter, Settings, UnsupportedError
from ...results.record import Status
from ..base import Row, Task
from ..measuring.failures import ENDS_A_CLIMB, failure_status, release_memory
from ..measuring.machine import MACHINE

Subject: TypeAlias = Literal["model", "layer", "machine"]
Role: TypeAlias = Literal["sweep", "probe", "largest"]

LAYER = "layer_"
"""Prefix of modes that measure the attention layer alone."""


@dataclass(frozen=True)
class Point:
    """One thing to measure.

    Attributes:
        mode: What is done, such as `prefill`.
        seq_len: Tokens of a row; 0 for the machine.
        batch_size: Rows of the batch; for the machine's pace, how many modes were measured before.
        role: `sweep` for a point of the settings; `probe` for a trial whether a batch fits; `largest` for the largest
            batch that fits.
        subject: What is measured: the whole model, its attention layer alone, or the machine.
    """

    mode: str
    seq_len: int
    batch_size: int
    role: Role = "sweep"
    subject: Subject = "model"

    @property
    def name(self) -> str:
        """A name for messages and files, unique within a cell."""
        return f"{self.mode}-{self.seq_len}-{self.batch_size}-{self.role}"

    def row(self, status: Status, found: Row) -> Row:
        """The row of predictions of this point."""
        return {**asdict(self), "status": status, **found}


Points: TypeAlias = Generator[Point, Row, None]
"""Yields points and receives their rows."""


@runtime_checkable
class PointTask(Task, Protocol):
    """A task that is measured point by point."""

    def points(self, settings: Settings, limit: int | None = None) -> Points:
        """The points, each yielded once the rows of the points before are known."""
        ...

    def layer_sizes(self, settings: Settings) -> Mapping[str, int]:
        """Which of `heads`, `kv_heads` and `head_dim` differ from the model's when the layer alone is measured."""
        ...

    def measure(self, subject: Any, point: Point, settings: Settings) -> Row:
        """Measures a point; a failure is raised.

        Args:
            subject: An `Adapter` for the subject `model`, an `AttentionAlone` for `layer`, a `Precision` for `machine`.
            point: The point.
            settings: The task's settings.
        """
        ...


def point_of_mode(mode: str, seq_len: int, batch_size: int, role: Role = "sweep") -> Point:
    """The point of a mode, whose name determines whether the subject is the layer or the model."""
    return Point(mode, seq_len, batch_size, role, "layer" if mode.startswith(LAYER) else "model")


def measured_row(point: Point, measure: Callable[[], Row]) -> Row:
    """The row of a point: the result of `measure`, or the status and message of a limit that it met.

    Exceptions that `failure_status` does not take for a limit are mistakes and propagate.
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
    """The subject of a point that is measured in this process: the model, whose device the machine's pace is taken of.

    Raises:
        UnsupportedError: The point is on the attention layer alone, or on the peaks that layers are compared with.
    """
    if point.subject == "layer" or point.mode == MACHINE:
        raise UnsupportedError("the attention layer alone is measured by a run, which builds it")
    return adapter


def run_points(points: Points, measure: Callable[[Point], Row]) -> list[Row]:
    """The rows of all points, measured one after another in this process."""
    rows: list[Row] = []
    try:
        point = next(points)
        while True:
            rows.append(measured_row(point, lambda point=point: measure(point)))  # type: ignore[misc]
            point = points.send(rows[-1])
    except StopIteration:
        return rows


def climb(mode: str, seq_lens: Iterable[int], batch_of: Callable[[int], int], *, past_failures: bool = False) -> Points:
    """Points from the shortest length to the longest, or to the first that runs out of memory or time.

    Args:
        mode: What is done.
        seq_lens: Lengths in any order.
        batch_of: Rows at a length.
        past_failures: Go on to longer lengths after a failure.
    """
    for seq_len in sorted(seq_lens):
        row = yield point_of_mode(mode, seq_len, batch_of(seq_len))
        if row["status"] in ENDS_A_CLIMB and not past_failures:
            return


def search_largest_batch(mode: str, seq_len: int, most: int) -> Points:
    """Finds the largest batch up to `most` that fits, by doubling and bisection, and measures it."""
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

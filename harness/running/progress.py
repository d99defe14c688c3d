"""The progress of a run: bars on a terminal; elsewhere a line when a cell ends, and one a minute while it runs.

With `--quiet`, only failures are shown.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from ...results.record import Record
from ...results.tables.format import shortened

LINE_EVERY_S = 55.0
"""Longest silence of a running cell where there is no terminal: a line at least every minute, with time to print it."""

_UNITS = {"rows": "row", "points": "point"}
_BESIDE_NAMES, _SHORTEST_NAME = 54, 16
"""Columns of a terminal that the bars leave to names at most, and fewest columns of a name."""


@dataclass
class CellProgress:
    """How far a cell is: its present phase, the phase's count, and from it the rate and the time that is left.

    Attributes:
        number: Its place among the cells of the run that have begun or ended.
        title: Its name.
        began_s: When the phase began, on the clock of `time.monotonic`.
        message: The latest message of its worker.
    """

    number: int
    title: str
    began_s: float
    message: Mapping[str, Any] = field(default_factory=lambda: {"phase": "starting"})
    _first: tuple[float, int] = (0.0, 0)
    _latest_s: float = 0.0

    def take(self, message: Mapping[str, Any], now_s: float) -> None:
        """Takes a message that came at `now_s`."""
        if message["phase"] != self.message["phase"]:
            self.began_s = now_s
        if "done" in message and (message["phase"] != self.message["phase"] or "done" not in self.message):
            self._first = now_s, message["done"]
        self.message, self._latest_s = message, now_s

    @property
    def phase(self) -> str:
        """The phase, or what a sweep is doing."""
        return str(self.message.get("doing") or self.message["phase"])

    @property
    def count(self) -> str:
        """Done and total, such as `120/400`; empty where nothing is counted."""
        if "done" not in self.message:
            return ""
        return f"{self.message['done']:,}" + (f"/{self.total:,}" if self.total else "")

    @property
    def total(self) -> int | None:
        """The phase's total; None if it is not known, or was passed."""
        total: int | None = self.message.get("total")
        return total if total is not None and self.message["done"] <= total else None

    @property
    def loss(self) -> str:
        """The latest loss of training, such as `loss 0.31`."""
        return f"loss {self.message['loss']:.3g}" if "loss" in self.message else ""

    @property
    def per_s(self) -> float | None:
        """Counts per second since the phase's first message; None before a second one."""
        first_s, first = self._first
        if "done" not in self.message or self.message["done"] <= first or self._latest_s <= first_s:
            return None
        return float(self.message["done"] - first) / (self._latest_s - first_s)

    @property
    def rate(self) -> str:
        """The rate, such as `2.1 it/s`, or `12 s/point` if it is slow; empty if it is not known."""
        if (per_s := self.per_s) is None:
            return ""
        unit = self.message["unit"]
        return f"{_short(per_s)} {unit}/s" if per_s >= 1 else f"{_short(1 / per_s)} s/{_UNITS.get(unit, unit)}"

    @property
    def short_rate(self) -> str:
        """The rate without its unit, such as `2.1/s` or `12 s each`; empty if it is not known."""
        if (per_s := self.per_s) is None:
            return ""
        return f"{_short(per_s)}/s" if per_s >= 1 else f"{_short(1 / per_s)} s each"

    @property
    def left(self) -> str:
        """The time that the phase still takes, such as `3 min`; empty if it is not known."""
        if self.per_s is None or self.total is None:
            return ""
        return duration((self.total - self.message["done"]) / self.per_s)

    def line(self, total: int, now_s: float) -> str:
        """One line, such as `[3/12] hedgehog / samsum: distill 120/400, loss 0.31, 2.1 it/s, about 3 min left`."""
        counted = f"{self.phase} {self.count}".strip()
        took = "" if self.count else f"for {duration(now_s - self.began_s)}"
        parts = (counted, took, self.loss, self.rate, f"about {self.left} left" if self.left else "")
        return f"[{self.number}/{total}] {self.title}: {', '.join(filter(None, parts))}"


def duration(seconds: float) -> str:
    """Seconds for people, such as `40 s`, `3 min` or `2 h 5 min`."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


class RunDisplay:
    """Shows cells as they start, progress and end.

    Args:
        console: Where to print.
        total: Cells to run.
        quiet: Print failures only.
        line_every_s: Longest silence of a running cell where the console is no terminal.
    """

    def __init__(self, console: Console, total: int, quiet: bool, line_every_s: float = LINE_EVERY_S) -> None:
        self.console, self.total, self.quiet = console, total, quiet
        self.done = 0
        self._start_s = time.monotonic()
        self._running: dict[str, CellProgress] = {}
        self._bars: dict[str, TaskID] = {}
        self._told_s: dict[str, float] = {}
        self._started_s: dict[str, float] = {}
        self._lock = threading.Lock()
        self._progress = _bars(console, disable=quiet or not console.is_terminal)
        self._overall = self._progress.add_task("cells", total=total, **{**_NOTHING, "count": f"0/{total}"})
        self._line_every_s = line_every_s
        self._is_over = threading.Event()
        self._teller = threading.Thread(target=self._tell_lines, daemon=True)

    def __enter__(self) -> RunDisplay:
        self._progress.start()
        if not self.quiet and not self.console.is_terminal:
            self._teller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._progress.stop()
        if self._teller.is_alive():
            self._teller.join()

    def started(self, key: str, title: str) -> None:
        """Shows that a cell begins."""
        with self._lock:
            now = time.monotonic()
            self._running[key] = CellProgress(self.done + len(self._running) + 1, title, now)
            self._started_s[key] = self._told_s[key] = now
            name = shortened(title, max(_SHORTEST_NAME, self.console.width - _BESIDE_NAMES))
            self._bars[key] = self._progress.add_task(name, total=None, **{**_NOTHING, "phase": "starting"})

    def update(self, key: str, message: Mapping[str, Any]) -> None:
        """Shows the message of a cell's worker."""
        with self._lock:
            if (cell := self._running.get(key)) is None:
                return
            cell.take(message, time.monotonic())
            self._progress.update(
                self._bars[key],
                completed=message.get("done", 0),
                total=cell.total,
                phase=cell.phase,
                count=cell.count,
                rate=cell.short_rate,
                left=f"{cell.left} left" if cell.left else "",
            )
            self._update_overall()

    def finished(self, key: str, title: str, record: Record) -> None:
        """Shows how a cell ended."""
        with self._lock:
            self.done += 1
            self._running.pop(key, None)
            if key in self._bars:
                self._progress.remove_task(self._bars.pop(key))
            self._update_overall()
        if not self.quiet or record.status != "ok":
            now = time.monotonic()
            seconds = now - self._started_s.get(key, now)
            say(self.console, f"[{self.done}/{self.total}] {title}: {describe(record)} ({seconds:.1f} s)")

    def _update_overall(self) -> None:
        """Shows the cells that have ended, and the time that the others take if each takes as long as those did."""
        spent_s = time.monotonic() - self._start_s
        left = f"{duration(spent_s / self.done * (self.total - self.done))} left" if self.done else ""
        self._progress.update(self._overall, completed=self.done, count=f"{self.done}/{self.total}", left=left)

    def _tell_lines(self) -> None:
        """Prints a line for each running cell that has been silent for too long, until the display ends."""
        while not self._is_over.wait(min(1.0, self._line_every_s)):
            with self._lock:
                now = time.monotonic()
                silent = [key for key in self._running if now - self._told_s[key] >= self._line_every_s]
                lines = [self._running[key].line(self.total, now) for key in silent]
                self._told_s |= dict.fromkeys(silent, now)
            for line in lines:
                say(self.console, line)


_NOTHING: Mapping[str, Any] = {"phase": "", "count": "", "rate": "", "left": ""}


def _bars(console: Console, disable: bool) -> Progress:
    """Bars with all that is known of a cell in one line, down to 80 columns: only its name is cut."""
    name = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    columns = {"phase": Column(no_wrap=True, overflow="ellipsis", max_width=17)}
    # Without a least width, rich counts an empty last column as one too wide, and gives the names' room away.
    columns |= {field: Column(no_wrap=True, justify="right", min_width=1) for field in ("count", "rate", "left")}
    texts = [TextColumn(f"{{task.fields[{key}]}}", table_column=own, markup=False) for key, own in columns.items()]
    return Progress(
        TextColumn("{task.description}", table_column=name, markup=False),
        texts[0],
        BarColumn(bar_width=6),
        *texts[1:],
        console=console,
        expand=True,
        transient=True,
        disable=disable,
    )


def say(console: Console, text: str) -> None:
    """Prints text unchanged: long paths are not broken, and markup and emoji codes are not interpreted."""
    console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


def reason(record: Record) -> str:
    """Why a record has no result: the error's message, or its type if the message is empty."""
    if record.error is None:
        return "no reason was given"
    return record.error.message.strip() or record.error.type


def describe(record: Record) -> str:
    """A record in a few words: its main metric, or why there is none."""
    if record.status != "ok":
        return f"{record.status}: {reason(record).splitlines()[0]}"
    main = record.main()
    if main is None or main.value is None:
        return f"no {record.main_metric}"
    spread = "" if main.stderr is None else f" ± {main.stderr:.2g}"
    at = "".join(f" at {key}={value}" for key, value in main.at.items())
    return f"{main.name} {main.value:.4g}{spread}{'' if main.unit == '1' else ' ' + main.unit}{at}"

"""The progress of a run: bars on a terminal, a line per cell elsewhere, failures only with `--quiet`."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ...results.record import Record


class RunDisplay:
    """Shows cells as they start, progress and end.

    Args:
        console: Where to print.
        total: Cells to run.
        quiet: Print failures only.
    """

    def __init__(self, console: Console, total: int, quiet: bool) -> None:
        self.console, self.total, self.quiet = console, total, quiet
        self.done = 0
        self._started_s: dict[str, float] = {}
        self._bars: dict[str, TaskID] = {}
        self._lock = threading.Lock()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )

    def __enter__(self) -> RunDisplay:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def started(self, key: str, title: str) -> None:
        """Shows that a cell begins."""
        with self._lock:
            self._started_s[key] = time.monotonic()
            self._bars[key] = self._progress.add_task(title, total=None, state="starting")

    def update(self, key: str, message: Mapping[str, Any]) -> None:
        """Shows the message of a cell's worker."""
        state = str(message["phase"])
        if "loss" in message:
            state = f"train {message['done']}/{message['total']} loss {message['loss']:.3f}"
        with self._lock:
            if key in self._bars:
                self._progress.update(
                    self._bars[key], completed=message.get("done"), total=message.get("total"), state=state
                )

    def finished(self, key: str, title: str, record: Record) -> None:
        """Shows how a cell ended."""
        with self._lock:
            self.done += 1
            if key in self._bars:
                self._progress.remove_task(self._bars.pop(key))
        if not self.quiet or record.status != "ok":
            now = time.monotonic()
            seconds = now - self._started_s.get(key, now)
            say(self.console, f"[{self.done}/{self.total}] {title}: {describe(record)} ({seconds:.1f} s)")


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

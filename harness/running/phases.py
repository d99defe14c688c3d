"""The phases of a cell in its own process: how long each takes, and how far it is, for the run that shows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .job import Message

if TYPE_CHECKING:
    from torch import nn

MESSAGES_EVERY_S = 0.1
"""Messages about the steps or rows of a phase are at least this far apart."""


@dataclass
class Phases:
    """Times the phases of a cell, and announces them with their counts.

    Attributes:
        send: Takes messages of progress.
        timings_s: Seconds of each phase that has ended.
    """

    send: Callable[[Message], None]
    timings_s: dict[str, float] = field(default_factory=dict)
    _name: str = ""
    _sent_s: float = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Announces a phase, and adds the seconds that the block takes to it."""
        self._name = name
        self.send({"phase": name})
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings_s[name] = self.timings_s.get(name, 0.0) + time.perf_counter() - start

    def steps(self, done: int, total: int, loss: float) -> None:
        """Announces training steps of the present phase."""
        self._count(done, total, "it", loss=loss)

    @contextmanager
    def rows(self, model: nn.Module, total: int | None) -> Iterator[None]:
        """Announces rows of the present phase as the model reads them; decoding a token is no new row.

        Args:
            model: The model; its first module with weights of its own reads every batch, rows first.
            total: Rows that it will read; None if that is not known.
        """
        first = next(module for module in model.modules() if any(True for _ in module.parameters(recurse=False)))
        done = 0

        def read(_: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
            nonlocal done
            inputs = next(iter((*positional, *named.values())))
            if inputs.ndim != 2 or inputs.shape[1] > 1:
                done += len(inputs)
                self._count(done, total, "rows")

        hook = first.register_forward_pre_hook(read, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()

    def _count(self, done: int, total: int | None, unit: str, **more: float) -> None:
        now = time.monotonic()
        if done == total or now - self._sent_s > MESSAGES_EVERY_S:
            self._sent_s = now
            self.send({"phase": self._name, "done": done, "total": total, "unit": unit, **more})


def rows_in(test: object) -> int | None:
    """The rows of a task's test data, if it holds one entry for each: a sequence, labels or prompts, or splits of them.

    None for other data: documents, for example, are read in windows.
    """
    if isinstance(test, tuple):
        counts = [rows_in(part) for part in test]
        return None if None in counts else sum(count or 0 for count in counts)
    for rows in (test, *(getattr(test, name, None) for name in ("labels", "prompts"))):
        if isinstance(rows, Sized) and not isinstance(rows, str):
            return len(rows)
    return None

"""A plugin's task that misbehaves as its setting `how` says; the tests put it on the path of the workers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hedgebench.adapters.base import Adapter, Capability, ModelShape, Settings
from hedgebench.results.record import DataIdentity, Metric
from hedgebench.tasks.base import INPUT, Row, Sources, TaskData, TaskInfo, TaskScale


@dataclass(frozen=True)
class Naughty:
    """Does `how`, after writing its process id to the file `marker`."""

    info: TaskInfo

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        return DataIdentity("naughty", "1", str(settings["how"]), "generated", {"test": 1})

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        marker = Path(str(settings["marker"]))
        first = not marker.exists()
        marker.write_text(str(os.getpid()), encoding="utf-8")
        misbehave(str(settings["how"]), first)
        return TaskData(ModelShape(context_length=8, vocab_size=8), test=None, notes=("a note",))

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        size = settings["batch_size"]
        if settings["how"] == "big_batch" and isinstance(size, int) and size > 2:
            raise MemoryError
        return [{"sample": 0, "answer": 1.0, INPUT: "what the model was given"}]

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        return [Metric("accuracy", rows[0]["answer"], "1", True, 0.0, len(rows))]


def misbehave(how: str, first: bool) -> None:
    print("about to", how)
    if how == "exit":
        os._exit(7)
    if how == "kill" or (how == "kill_once" and first):
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "sleep":
        time.sleep(600)
    if how == "memory":
        raise MemoryError
    if how == "silent":
        raise ValueError
    if how == "error":
        raise ValueError("first line\nsecond line")


def _task(name: str, own_device: bool) -> Naughty:
    settings: Settings = {"how": "behave", "marker": "marker", "batch_size": 8}
    info = TaskInfo(
        name=name,
        version=1,
        summary="misbehaves",
        main_metric="accuracy",
        data=("generated",),
        licence="none",
        citation="none",
        needs=frozenset({Capability.LANGUAGE_MODEL}),
        recipes=("zero-shot",),
        scales={"smoke": TaskScale(settings)},
        own_device=own_device,
    )
    return Naughty(info)


TASKS = [_task("naughty", own_device=False), _task("naughty_alone", own_device=True)]

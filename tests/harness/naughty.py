"""A plugin's task that misbehaves as its setting `how` says; the tests put it on the path of the workers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hedgebench.adapters.base import Adapter, Capability, ModelShape, Settings
from hedgebench.results.record import DataIdentity, Metric
from hedgebench.tasks.base import INPUT, Row, Sources, TaskData, TaskInfo, TaskScale
from hedgebench.tasks.efficiency.points import Point, Points, climb


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
        notes = {"notes": ["a fallback"]} if settings["how"] == "note" else {}
        rows: list[Row] = [{"sample": 0, "answer": 1.0, INPUT: "what the model was given", **notes}]
        if str(settings["how"]).startswith("failed_row"):
            rows.append({"status": "error", "error": "KeyError", "message": "one part", "log_tail": "where it was"})
        return rows

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        if settings["how"] == "failed_row_and_more":
            raise RuntimeError("this follows from it")
        return [Metric("accuracy", rows[0]["answer"], "1", True, 0.0, len(rows))]


def misbehave(how: str, first: bool) -> None:
    print("about to", how)
    if how == "exit":
        os._exit(7)
    if how == "exit_255":
        os._exit(255)
    if how == "kill" or (how == "kill_once" and first):
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "sleep" or (how == "sleep_once" and first):
        time.sleep(600)
    if how == "sleep_a_little":
        time.sleep(1.5)
    if how == "memory":
        raise MemoryError
    if how == "silent":
        raise ValueError
    if how == "error":
        raise ValueError("first line\nsecond line")


@dataclass(frozen=True)
class NaughtySweep:
    """Points of which the one at the length `at` does `how`; each writes its name into the file `marker`."""

    info: TaskInfo

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        return DataIdentity("naughty", "1", "", "generated", {"test": 1})

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        return TaskData(ModelShape(context_length=8, vocab_size=8), test=None)

    def points(self, settings: Settings, limit: int | None = None) -> Points:
        for mode in ("prefill", "train"):
            for point in _only_points(climb(mode, (1, 2, 3), lambda _: 1)):
                row = yield point
                if row["status"] in ("oom", "timeout"):
                    break

    def layer_sizes(self, settings: Settings) -> Mapping[str, int]:
        return {}

    def measure(self, subject: Any, point: Point, settings: Settings) -> Row:
        with Path(str(settings["marker"])).open("a", encoding="utf-8") as marker:
            marker.write(f"{point.name} {os.getpid()}\n")
        if point.mode == "prefill" and point.seq_len == 2:
            began = Path(str(settings["marker"])).read_text(encoding="utf-8")
            misbehave(str(settings["how"]), first=began.count(point.name) == 1)
        return {"pid": os.getpid(), **({"notes": ["a fallback"]} if settings["how"] == "note" else {})}

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        raise NotImplementedError

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        return [
            Metric("accuracy", 1.0 if row["status"] == "ok" else None, "1", True, None, 1,
                   {"mode": row["mode"], "seq_len": row["seq_len"]}, row["status"])
            for row in rows
        ]  # fmt: skip


def _only_points(points: Points) -> list[Point]:
    """The points of a climb on which nothing fails, each on the machine, so that no model has to be built."""
    found = [next(points)]
    try:
        while True:
            found.append(points.send(found[-1].row("ok", {})))
    except StopIteration:
        return [replace(point, subject="machine") for point in found]


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


def _sweep() -> NaughtySweep:
    settings: Settings = {"how": "behave", "marker": "marker", "point_timeout_s": 60.0}
    return NaughtySweep(replace(_task("naughty_sweep", own_device=True).info, scales={"smoke": TaskScale(settings)}))


TASKS = [_task("naughty", own_device=False), _task("naughty_alone", own_device=True), _sweep()]

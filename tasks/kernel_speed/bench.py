"""Measures contenders at shapes in turns; a failure is a result of its point and does not stop the others."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeAlias

from ..base import Row
from ..heavy import torch
from ..measuring.failures import ENDS_A_CLIMB, failure_status, release_memory
from ..measuring.telemetry import Telemetry, telemetry
from ..measuring.timing import Repeats, first_call_s, measure_calls
from .shapes import KernelShape
from .workloads import Prepare, TimedCall

_TRACEBACK_CHARACTERS = 4000

ROUNDS = 2
"""How often contenders take turns at a shape: what drifts, such as clocks and temperature, then meets all of them."""

Check: TypeAlias = Callable[[str, str, Any, KernelShape, "torch.dtype"], float | None]
"""The error of a call's result, from its contender's name, its own name, the result, the shape and the type."""


def unchecked(*_: object) -> None:
    """The check of calls whose result is not compared."""


@dataclass
class KernelBench:
    """Contenders of one workload on one device.

    Attributes:
        contenders: What prepares each contender's calls, by its name.
        repeats: How often a call is repeated.
        device: Where everything runs.
        dtype: Type of all tensors.
        check: Gives the error of a call's first result, before the call is timed; it raises if that is too large.
        lost: The error that the device answers every call with, such as after an access out of bounds; empty while
            the device works.
    """

    contenders: Mapping[str, Prepare]
    repeats: Repeats
    device: torch.device
    dtype: torch.dtype
    check: Check = unchecked
    lost: str = ""

    def __post_init__(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.get_device_properties(self.device)  # torch caches them for the record; a lost device has none

    def climb(self, names: Sequence[str], shapes: Sequence[KernelShape]) -> Iterator[Row]:
        """Rows of contenders at each shape, except shapes longer than one that ran out of memory or time.

        At each shape the contenders are measured in turns, `ROUNDS` times, and their samples are joined. Each is built
        anew in its turn, so that only one of them is in memory.

        Args:
            names: Names of the contenders.
            shapes: The shapes, within a family from short to long.
        """
        given_up: set[tuple[str, tuple[int, int]]] = set()
        for shape in shapes:
            found: dict[str, Row] = {}
            for name in (*names,) * ROUNDS:
                earlier = found.get(name)
                if self.lost and earlier is not None:
                    continue
                if (name, shape.family) not in given_up and (earlier is None or earlier["status"] == "ok"):
                    row = self._found(name, shape)
                    found[name] = row if earlier is None or row["status"] != "ok" else _joined(earlier, row)
                    if row["status"] in ENDS_A_CLIMB:
                        given_up.add((name, shape.family))
            yield from ({"contender": name, **asdict(shape), **row} for name, row in found.items())

    def _found(self, name: str, shape: KernelShape) -> Row:
        if self.lost:
            lost = {"error": "DeviceLost", "message": f"not tried: the device is lost ({self.lost})"}
            return _located({"status": "error", **lost}, name, shape)
        try:
            found = {"status": "ok", **self._measure(name, shape)}
        except Exception as error:  # one contender's mistake must not stop the others
            found = _located(_failed(error), name, shape)
            self.lost = _device_error(self.device)
        if not self.lost:
            release_memory()
        return found

    def _measure(self, name: str, shape: KernelShape) -> Row:
        """The kernel, times and memory of each call, and notes on how they were measured."""
        calls = self.contenders[name](shape, self.device, self.dtype)
        with torch.no_grad(), telemetry(self.device) as watch:
            found = {}
            for each, call in calls.items():
                check = partial(self._error, name, each, shape)
                found[each] = self._measure_call(call, watch, check)
        notes = [f"{name}, {each}: {note}" for each, of_call in found.items() for note in of_call.pop("notes")]
        return {"calls": found, "notes": [*notes, *watch.notes]}

    def _error(self, name: str, call: str, shape: KernelShape, result: object) -> float | None:
        return self.check(name, call, result, shape, self.dtype)

    def _measure_call(self, call: TimedCall, watch: Telemetry, check: Callable[[Any], float | None]) -> Row:
        first: list[tuple[Any, str]] = []
        first_s = first_call_s(lambda: first.append(call()), self.device)
        result, ran = first.pop()
        error = check(result)
        del result
        peak_bytes = _peak_bytes(call, self.device)
        timing = measure_calls(call, self.device, self.repeats, kernel=True, watch=watch)
        return {
            "ran": ran,
            "relative_error": error,
            "first_call_s": first_s,
            "peak_bytes": peak_bytes,
            **asdict(timing),
            "telemetry": watch.found,
            "notes": timing.notes,
        }


def _joined(earlier: Row, later: Row) -> Row:
    """Two turns of a contender at one shape: what was measured first, with the samples of both."""
    calls = {
        name: {
            **call,
            "samples_ms": [*call["samples_ms"], *later["calls"][name]["samples_ms"]],
            "is_stable": call["is_stable"] and later["calls"][name]["is_stable"],
        }
        for name, call in earlier["calls"].items()
    }
    return {**earlier, "calls": calls, "notes": list(dict.fromkeys((*earlier["notes"], *later["notes"])))}


def _failed(error: Exception) -> Row:
    """The status and message of an exception; for a mistake also the traceback."""
    status, kind = failure_status(error), type(error).__name__
    if status is not None:
        return {"status": status, "message": f"{kind}: {error}"}
    log = "".join(traceback.format_exception(error))[-_TRACEBACK_CHARACTERS:]
    return {"status": "error", "error": kind, "message": str(error), "log_tail": log}


def _located(failed: Row, name: str, shape: KernelShape) -> Row:
    """A failure whose message, also kept as a note, names the contender and the shape."""
    where = name if failed["status"] == "unsupported" else f"{name} at {shape.name}"
    message = f"{where}: {failed['message']}"
    return {**failed, "message": message, "notes": [f"{failed['status']}: {message}"]}


def _device_error(device: torch.device) -> str:
    """The error of a device that no longer works in this process; empty if it works."""
    if device.type == "cuda":
        try:
            torch.cuda.synchronize(device)
        except RuntimeError as error:
            return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return ""


def _peak_bytes(call: TimedCall, device: torch.device) -> int | None:
    """Most bytes of tensors alive while a call runs, its inputs included; None on the CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device))

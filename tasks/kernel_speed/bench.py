"""Measures contenders at shapes, one after another; a failure is a result of its point and does not stop the others."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from ..base import Row
from ..heavy import torch
from ..measuring.failures import ENDS_A_CLIMB, failure_status, release_memory
from ..measuring.telemetry import Telemetry, telemetry
from ..measuring.timing import Repeats, first_call_s, measure_calls
from .shapes import KernelShape
from .workloads import Prepare, TimedCall

_TRACEBACK_CHARACTERS = 4000


@dataclass
class KernelBench:
    """Contenders of one workload on one device.

    Attributes:
        contenders: What prepares each contender's calls, by its name.
        repeats: How often a call is repeated.
        device: Where everything runs.
        dtype: Type of all tensors.
        lost: The error that the device answers every call with, such as after an access out of bounds; empty while
            the device works.
    """

    contenders: Mapping[str, Prepare]
    repeats: Repeats
    device: torch.device
    dtype: torch.dtype
    lost: str = ""

    def __post_init__(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.get_device_properties(self.device)  # torch caches them for the record; a lost device has none

    def climb(self, name: str, shapes: Sequence[KernelShape]) -> Iterator[Row]:
        """A contender's row at each shape, except shapes longer than one that ran out of memory or time.

        Args:
            name: Name of the contender.
            shapes: The shapes, within a family from short to long.
        """
        given_up: set[tuple[int, int]] = set()
        for shape in shapes:
            if shape.family not in given_up:
                found = self._found(name, shape)
                if found["status"] in ENDS_A_CLIMB:
                    given_up.add(shape.family)
                yield {"contender": name, **asdict(shape), **found}

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
            found = {each: self._measure_call(call, watch) for each, call in calls.items()}
        notes = [f"{name}, {each}: {note}" for each, of_call in found.items() for note in of_call.pop("notes")]
        return {"calls": found, "notes": [*notes, *watch.notes]}

    def _measure_call(self, call: TimedCall, watch: Telemetry) -> Row:
        ran: list[str] = []
        first_s = first_call_s(lambda: ran.append(call()[1]), self.device)
        peak_bytes = _peak_bytes(call, self.device)
        timing = measure_calls(call, self.device, self.repeats, kernel=True, watch=watch)
        return {
            "ran": ran[0],
            "first_call_s": first_s,
            "peak_bytes": peak_bytes,
            **asdict(timing),
            "telemetry": watch.found,
            "notes": timing.notes,
        }


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

"""State of a device while calls are timed: clocks, throttling, temperature, power and energy.

NVIDIA devices report through NVML if the module `pynvml` is installed (extra `gpu`: nvidia-ml-py); a note names the
readings that the device does not report. Energy is read from the device's own counter, so it includes other programs on
the device.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from ..heavy import torch

THROTTLES: Mapping[int, str] = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""Bits of NVML's nvmlClocksThrottleReasons that mean a device runs slower than it was set to."""

_READINGS: Mapping[str, Callable[[Any, Any], Any]] = {
    "lowest_sm_clock_mhz": lambda nvml, device: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM),
    "lowest_memory_clock_mhz": lambda nvml, device: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_MEM),
    "throttled": lambda nvml, device: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(device),
    "energy_j": lambda nvml, device: nvml.nvmlDeviceGetTotalEnergyConsumption(device),
    "temperature_c": lambda nvml, device: nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU),
    "power_w": lambda nvml, device: nvml.nvmlDeviceGetPowerUsage(device),
}
"""How each field is read from NVML, in NVML's units: energy in millijoules, power in milliwatts."""

_LOOK_EVERY_S = 0.02
_UNKNOWN = "clocks, throttling and energy are not known"


class Telemetry:
    """State of a device during the last window; empty for a device that reports nothing.

    Args:
        nvml: The module `pynvml`, initialised; None if nothing is known.
        handle: NVML's handle of the device.
        note: Why nothing is known, if that is worth a note.
    """

    def __init__(self, nvml: Any = None, handle: Any = None, note: str = "") -> None:
        self._nvml, self._handle, self._note = nvml, handle, note
        self._found: dict[str, Any] = {}
        self._throttles: int | None = None
        self._unread: dict[str, None] = {}
        self._looked_at_s = float("-inf")

    @contextmanager
    def window(self) -> Iterator[None]:
        """Measures energy, time and the lowest clocks of the block; values of an earlier window are dropped."""
        if self._nvml is None:
            yield
            return
        self._found, self._throttles, self._looked_at_s = {}, None, float("-inf")
        self.look()
        before_mj, start_s = self._read("energy_j"), time.perf_counter()
        yield
        self._found["window_s"] = time.perf_counter() - start_s
        after_mj = self._read("energy_j")
        if before_mj is not None and after_mj is not None:
            self._found["energy_j"] = (after_mj - before_mj) / 1e3
        self._looked_at_s = float("-inf")
        self.look()
        if (celsius := self._read("temperature_c")) is not None:
            self._found["temperature_c"] = celsius
        if (milliwatts := self._read("power_w")) is not None:
            self._found["power_w"] = milliwatts / 1e3

    def look(self) -> None:
        """Reads clocks and throttling, at most 50 times a second; call it while the device is at work."""
        if self._nvml is None or time.perf_counter() - self._looked_at_s < _LOOK_EVERY_S:
            return
        self._looked_at_s = time.perf_counter()
        for field in ("lowest_sm_clock_mhz", "lowest_memory_clock_mhz"):
            if (mhz := self._read(field)) is not None:
                self._found[field] = min(mhz, self._found.get(field, mhz))
        if (bits := self._read("throttled")) is not None:
            self._throttles = (self._throttles or 0) | bits

    @property
    def found(self) -> dict[str, Any]:
        """What the device reported.

        Keys: `window_s`, `energy_j`; `lowest_sm_clock_mhz`, `lowest_memory_clock_mhz` and `throttled` (reasons joined
        by `+`, or an empty string) over all looks of the window; `temperature_c` and `power_w` at its end.
        """
        if self._throttles is None:
            return dict(self._found)
        reasons = (name for bit, name in THROTTLES.items() if bit & self._throttles)
        return {**self._found, "throttled": "+".join(reasons)}

    @property
    def notes(self) -> list[str]:
        """Names what the device did not report."""
        unread = f"NVML does not report this device's {', '.join(self._unread)}" if self._unread else ""
        return [note for note in (self._note, unread) if note]

    def _read(self, field: str) -> int | None:
        """A reading; None if NVML refuses it, as for parts of a device (MIG), virtual devices and old ones."""
        try:
            return int(_READINGS[field](self._nvml, self._handle))
        except self._nvml.NVMLError:
            self._unread[field] = None
            return None


UNWATCHED = Telemetry()
"""Reads nothing and has no notes."""


@contextmanager
def telemetry(device: torch.device) -> Iterator[Telemetry]:
    """Watches the device during the block; a CPU is not watched."""
    with ExitStack() as stack:
        yield _opened(device, stack)


def _opened(device: torch.device, stack: ExitStack) -> Telemetry:
    """Connects to NVML; the stack disconnects. The UUID names the device, as CUDA_VISIBLE_DEVICES changes numbers."""
    if device.type != "cuda":
        return Telemetry()
    if importlib.util.find_spec("pynvml") is None:
        return Telemetry(note=f"{_UNKNOWN}: nvidia-ml-py is not installed (extra `gpu`)")

    nvml: Any = importlib.import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return Telemetry(note=f"{_UNKNOWN}: NVML does not start ({error})")
    stack.callback(nvml.nvmlShutdown)
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    try:
        return Telemetry(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"))
    except nvml.NVMLError as error:
        return Telemetry(note=f"{_UNKNOWN}: NVML does not know this device ({error})")

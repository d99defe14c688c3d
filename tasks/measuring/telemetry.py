"""What a device does while calls are timed: clocks, throttling, temperature, power and energy.

NVIDIA devices tell through NVML where the package `pynvml` is installed (extra `gpu`: nvidia-ml-py); what is not told
is a note. Energy is the device's own counter over a window, so it holds whatever else ran on the device meanwhile.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

THROTTLES: Mapping[int, str] = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""Bits of NVML's nvmlClocksThrottleReasons that mean a device runs slower than it was set to."""

_LOOK_EVERY_S = 0.02
_UNKNOWN = "clocks, throttling and energy are not known"


class Telemetry:
    """What a device told of the last window; of a device that tells nothing, nothing.

    Args:
        nvml: The module `pynvml`, initialised; None where nothing is known.
        handle: NVML's handle of the device.
        note: Why nothing is known, where that is worth a note.
    """

    def __init__(self, nvml: Any = None, handle: Any = None, note: str = "") -> None:
        self._nvml, self._handle, self._note = nvml, handle, note
        self._found: dict[str, Any] = {}
        self._throttles: int | None = None
        self._untold: dict[str, None] = {}
        self._looked_at_s = float("-inf")

    @contextmanager
    def window(self) -> Iterator[None]:
        """Energy and time of the block, and the lowest clocks in it; what an earlier window gave is dropped."""
        if self._nvml is None:
            yield
            return
        self._found, self._throttles, self._looked_at_s = {}, None, float("-inf")
        self.look()
        before_mj, start_s = self._energy_mj(), time.perf_counter()
        yield
        self._found["window_s"] = time.perf_counter() - start_s
        after_mj = self._energy_mj()
        if before_mj is not None and after_mj is not None:
            self._found["energy_j"] = (after_mj - before_mj) / 1e3
        self._looked_at_s = float("-inf")
        self.look()
        self._state_at_end()

    def look(self) -> None:
        """Reads clocks and throttling, 50 times a second at most; to be called while the device is at work."""
        if self._nvml is None or time.perf_counter() - self._looked_at_s < _LOOK_EVERY_S:
            return
        self._looked_at_s = time.perf_counter()
        nvml, handle = self._nvml, self._handle
        for field, clock in (
            ("lowest_sm_clock_mhz", nvml.NVML_CLOCK_SM),
            ("lowest_memory_clock_mhz", nvml.NVML_CLOCK_MEM),
        ):
            mhz = self._read(field, nvml.nvmlDeviceGetClockInfo, handle, clock)
            if mhz is not None:
                self._found[field] = min(int(mhz), self._found.get(field, int(mhz)))
        bits = self._read("throttled", nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
        if bits is not None:
            self._throttles = (self._throttles or 0) | int(bits)

    @property
    def found(self) -> dict[str, Any]:
        """What the device told, as far as it did.

        Keys: `window_s`, `energy_j`; `lowest_sm_clock_mhz`, `lowest_memory_clock_mhz` and `throttled` (reasons joined
        by `+`, or an empty string) over all looks of the window; `temperature_c` and `power_w` at its end.
        """
        if self._throttles is None:
            return dict(self._found)
        reasons = (name for bit, name in THROTTLES.items() if bit & self._throttles)
        return {**self._found, "throttled": "+".join(reasons)}

    @property
    def notes(self) -> list[str]:
        """What the device did not tell, in words."""
        untold = [f"NVML does not tell this device's {', '.join(self._untold)}"] if self._untold else []
        return [self._note, *untold] if self._note else untold

    def _energy_mj(self) -> int | None:
        """The counter; devices before Volta, and parts of a device, have none."""
        mj = self._read("energy_j", self._nvml.nvmlDeviceGetTotalEnergyConsumption, self._handle)
        return None if mj is None else int(mj)

    def _state_at_end(self) -> None:
        nvml, handle = self._nvml, self._handle
        celsius = self._read("temperature_c", nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
        milliwatts = self._read("power_w", nvml.nvmlDeviceGetPowerUsage, handle)
        if celsius is not None:
            self._found["temperature_c"] = int(celsius)
        if milliwatts is not None:
            self._found["power_w"] = milliwatts / 1e3

    def _read(self, field: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """What NVML answers; None where it refuses, as it does for parts of a device (MIG) and for virtual ones."""
        try:
            return function(*arguments)
        except self._nvml.NVMLError:
            self._untold[field] = None
            return None


UNWATCHED = Telemetry()
"""Sees nothing, and notes nothing."""


@contextmanager
def telemetry(device: torch.device) -> Iterator[Telemetry]:
    """What the device tells, as long as the block lasts; of a processor nothing is asked."""
    if device.type != "cuda":
        yield Telemetry()
        return
    nvml, note = _started()
    if nvml is None:
        yield Telemetry(note=note)
        return
    try:
        yield _of(nvml, device)
    finally:
        nvml.nvmlShutdown()


def _started() -> tuple[Any, str]:
    """NVML, or None and why it does not run."""
    if importlib.util.find_spec("pynvml") is None:
        return None, f"{_UNKNOWN}: nvidia-ml-py is not installed (extra `gpu`)"
    nvml: Any = importlib.import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return None, f"{_UNKNOWN}: NVML does not start ({error})"
    return nvml, ""


def _of(nvml: Any, device: torch.device) -> Telemetry:
    """The device by its UUID: NVML does not know which devices CUDA_VISIBLE_DEVICES hides."""
    import torch

    uuid = str(torch.cuda.get_device_properties(device).uuid)
    try:
        return Telemetry(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"))
    except nvml.NVMLError as error:
        return Telemetry(note=f"{_UNKNOWN}: NVML does not know this device ({error})")

"""What a device does while something is timed: clocks, throttling, temperature, power and energy.

NVIDIA devices tell through NVML where the package `pynvml` (nvidia-ml-py) is installed; elsewhere nothing is known, and
nothing is said. Energy is the device's own counter, so it holds whatever else ran on it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping
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


@contextmanager
def telemetry(device: torch.device) -> Iterator[dict[str, Any]]:
    """A dict that holds, once the block has ended, what the device did meanwhile; it stays empty where that is unknown.

    Its keys: `energy_j`, `sm_clock_mhz`, `memory_clock_mhz`, `temperature_c`, `power_w`, and `throttled` with the
    reasons joined by `+`, or an empty string. All but the energy are as they stood at the end of the block.
    """
    found: dict[str, Any] = {}
    if device.type != "cuda" or importlib.util.find_spec("pynvml") is None:
        yield found
        return
    nvml: Any = importlib.import_module("pynvml")
    nvml.nvmlInit()
    try:
        handle = _handle(nvml, device)
        before_mj = _energy_mj(nvml, handle)
        yield found
        after_mj = _energy_mj(nvml, handle)
        found |= _state(nvml, handle)
        if before_mj is not None and after_mj is not None:
            found["energy_j"] = (after_mj - before_mj) / 1e3
    finally:
        nvml.nvmlShutdown()


def _handle(nvml: Any, device: torch.device) -> Any:
    """The device by its UUID: NVML does not know which devices CUDA_VISIBLE_DEVICES hides."""
    import torch

    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")


def _energy_mj(nvml: Any, handle: Any) -> int | None:
    try:
        return int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
    except nvml.NVMLError:  # devices before Volta have no counter
        return None


def _state(nvml: Any, handle: Any) -> dict[str, Any]:
    bits = int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    return {
        "sm_clock_mhz": int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
        "memory_clock_mhz": int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
        "temperature_c": int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        "power_w": nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
        "throttled": "+".join(name for bit, name in THROTTLES.items() if bits & bit),
    }

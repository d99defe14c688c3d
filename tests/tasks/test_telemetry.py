"""Tests of tasks/telemetry.py, with a fake of NVML."""

from __future__ import annotations

import importlib.machinery
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from hedgebench.tasks.telemetry import telemetry

CUDA = torch.device("cuda")


class FakeError(Exception):
    pass


def fake_nvml(has_counter: bool, reasons: int) -> Any:
    module: Any = ModuleType("pynvml")
    module.__spec__ = importlib.machinery.ModuleSpec("pynvml", None)
    module.log, module.NVMLError = [], FakeError
    module.NVML_CLOCK_SM, module.NVML_CLOCK_MEM, module.NVML_TEMPERATURE_GPU = 1, 2, 0
    energies = iter([1_000_000, 1_004_500])

    def energy(handle: object) -> int:
        if not has_counter:
            raise FakeError
        return next(energies)

    module.nvmlInit = lambda: module.log.append("init")
    module.nvmlShutdown = lambda: module.log.append("shutdown")
    module.nvmlDeviceGetHandleByUUID = module.log.append
    module.nvmlDeviceGetTotalEnergyConsumption = energy
    module.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: reasons
    module.nvmlDeviceGetClockInfo = lambda handle, clock: {1: 1980, 2: 2619}[clock]
    module.nvmlDeviceGetTemperature = lambda handle, sensor: 55
    module.nvmlDeviceGetPowerUsage = lambda handle: 412_000
    return module


@pytest.fixture(autouse=True)
def _device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="ab-cd"))


def test_a_device_tells_its_clocks_why_it_is_slow_and_what_it_used(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = fake_nvml(has_counter=True, reasons=0x1 | 0x4 | 0x40)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with telemetry(CUDA) as did:
        assert did == {}
    assert did == {
        "energy_j": 4.5,
        "sm_clock_mhz": 1980,
        "memory_clock_mhz": 2619,
        "temperature_c": 55,
        "power_w": 412.0,
        "throttled": "power cap+hardware thermal slowdown",
    }
    assert nvml.log == ["init", "GPU-ab-cd", "shutdown"]


def test_a_device_without_a_counter_has_no_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(has_counter=False, reasons=0))
    with telemetry(CUDA) as did:
        pass
    assert "energy_j" not in did
    assert did["throttled"] == ""


def test_nvml_is_let_go_when_the_block_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = fake_nvml(has_counter=True, reasons=0)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with pytest.raises(MemoryError), telemetry(CUDA):
        raise MemoryError
    assert nvml.log[-1] == "shutdown"


def test_a_processor_tells_nothing() -> None:
    with telemetry(torch.device("cpu")) as did:
        pass
    assert did == {}

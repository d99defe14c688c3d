"""Tests of tasks/measuring/telemetry.py, with a fake of NVML."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from hedgebench.tasks.measuring import telemetry as module
from hedgebench.tasks.measuring.telemetry import telemetry

CUDA = torch.device("cuda")


class FakeError(Exception):
    pass


class FakeNvml(ModuleType):
    """NVML of one device; what is in `refused` it does not tell."""

    NVMLError = FakeError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, *refused: str) -> None:
        super().__init__("pynvml")
        self.__spec__ = importlib.machinery.ModuleSpec("pynvml", None)
        self.refused, self.log = refused, list[str]()
        self.energy_mj, self.reasons, self.sm_mhz = 1_000_000, 0, 1980

    def _tell(self, what: str, value: Any) -> Any:
        if what in self.refused:
            raise FakeError(what)
        return value

    def nvmlInit(self) -> None:
        self._tell("init", None)
        self.log.append("init")

    def nvmlShutdown(self) -> None:
        self.log.append("shutdown")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> None:
        self.log.append(self._tell("handle", uuid))

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int:
        return int(self._tell("energy", self.energy_mj))

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: object) -> int:
        return int(self._tell("reasons", self.reasons))

    def nvmlDeviceGetClockInfo(self, handle: object, clock: int) -> int:
        return int(self._tell("clock", {1: self.sm_mhz, 2: 2619}[clock]))

    def nvmlDeviceGetTemperature(self, handle: object, sensor: int) -> int:
        return int(self._tell("temperature", 55))

    def nvmlDeviceGetPowerUsage(self, handle: object) -> int:
        return int(self._tell("power", 412_000))


@pytest.fixture(autouse=True)
def _device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="ab-cd"))
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.0)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeNvml]:
    def make(*refused: str) -> FakeNvml:
        nvml = FakeNvml(*refused)
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        return nvml

    return make


def test_a_device_tells_its_clocks_why_it_is_slow_and_what_it_used(install: Callable[..., FakeNvml]) -> None:
    nvml = install()
    with telemetry(CUDA) as watch:
        with watch.window():
            nvml.energy_mj += 4500
            nvml.reasons = 0x1 | 0x4 | 0x40
        found = watch.found
    assert found.pop("window_s") > 0
    assert found == {
        "energy_j": 4.5,
        "lowest_sm_clock_mhz": 1980,
        "lowest_memory_clock_mhz": 2619,
        "temperature_c": 55,
        "power_w": 412.0,
        "throttled": "power cap+hardware thermal slowdown",
    }
    assert (watch.notes, nvml.log) == ([], ["init", "GPU-ab-cd", "shutdown"])


def test_the_lowest_clock_and_every_reason_of_a_window_are_kept(install: Callable[..., FakeNvml]) -> None:
    nvml = install()
    with telemetry(CUDA) as watch, watch.window():
        nvml.sm_mhz, nvml.reasons = 1200, 0x4
        watch.look()
        nvml.sm_mhz, nvml.reasons = 1900, 0
    assert (watch.found["lowest_sm_clock_mhz"], watch.found["throttled"]) == (1200, "power cap")


def test_what_is_used_outside_the_window_is_not_counted_and_the_last_window_counts(
    install: Callable[..., FakeNvml],
) -> None:
    nvml = install()
    with telemetry(CUDA) as watch:
        assert watch.found == {}
        nvml.sm_mhz = 300
        with watch.window():
            nvml.energy_mj += 7000
        nvml.sm_mhz = 1980
        nvml.energy_mj += 90_000
        with watch.window():
            nvml.energy_mj += 1500
        nvml.energy_mj += 90_000
    assert (watch.found["energy_j"], watch.found["lowest_sm_clock_mhz"]) == (1.5, 1980)


def test_a_device_is_not_asked_more_often_than_it_has_to_be(
    install: Callable[..., FakeNvml], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 60.0)
    nvml = install()
    with telemetry(CUDA) as watch, watch.window():
        nvml.sm_mhz = 600
        watch.look()
        nvml.sm_mhz = 1900
    assert watch.found["lowest_sm_clock_mhz"] == 1900


@pytest.mark.parametrize(
    ("refused", "missing"),
    [
        ("energy", {"energy_j"}),
        ("clock", {"lowest_sm_clock_mhz", "lowest_memory_clock_mhz"}),
        ("reasons", {"throttled"}),
        ("temperature", {"temperature_c"}),
        ("power", {"power_w"}),
    ],
)
def test_what_a_device_does_not_tell_is_missing_and_noted_and_the_rest_is_there(
    install: Callable[..., FakeNvml], refused: str, missing: set[str]
) -> None:
    install()
    with telemetry(CUDA) as watch, watch.window():
        pass
    everything = set(watch.found)
    install(refused)
    with telemetry(CUDA) as watch, watch.window():
        pass
    assert everything - set(watch.found) == missing
    (note,) = watch.notes
    assert all(field in note for field in missing)


@pytest.mark.parametrize(
    ("refused", "why"), [("init", "NVML does not start"), ("handle", "NVML does not know this device")]
)
def test_a_device_that_nvml_does_not_reach_is_noted(install: Callable[..., FakeNvml], refused: str, why: str) -> None:
    install(refused)
    with telemetry(CUDA) as watch, watch.window():
        watch.look()
    assert watch.found == {}
    assert [why in note for note in watch.notes] == [True]


def test_a_missing_package_is_noted_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with telemetry(CUDA) as watch, watch.window():
        watch.look()
    assert watch.found == {}
    (note,) = watch.notes
    assert "nvidia-ml-py is not installed (extra `gpu`)" in note


def test_nvml_is_let_go_when_the_block_fails(install: Callable[..., FakeNvml]) -> None:
    nvml = install()
    with pytest.raises(MemoryError), telemetry(CUDA) as watch, watch.window():
        raise MemoryError
    assert nvml.log[-1] == "shutdown"


def test_a_processor_tells_nothing_and_that_is_no_note() -> None:
    with telemetry(torch.device("cpu")) as watch, watch.window():
        watch.look()
    assert (watch.found, watch.notes) == ({}, [])

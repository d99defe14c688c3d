"""Tests of tasks/timing.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hedgebench.tasks import timing
from hedgebench.tasks.timing import Repeats, measure_calls, time_calls, time_ms

CPU = torch.device("cpu")


def test_a_sleep_takes_as_long_as_it_says() -> None:
    assert time_ms(lambda: time.sleep(0.005), CPU, max_call_s=60) >= 5


def test_calls_are_warmed_up_and_every_sample_is_kept() -> None:
    calls: list[int] = []
    samples = time_calls(lambda: calls.append(1), CPU, Repeats(count=4, min_time_ms=0, warmup=3, max_call_s=60))
    assert len(samples) == 4
    assert 5 <= len(calls) <= 7


def test_short_calls_are_repeated_for_the_least_time_but_not_without_end() -> None:
    assert len(time_calls(lambda: None, CPU, Repeats(count=2, min_time_ms=1e9, warmup=0, max_call_s=60))) == 40


def test_slow_calls_are_repeated_less_but_never_less_than_three_times() -> None:
    repeats = Repeats(count=10, min_time_ms=0, warmup=0, max_call_s=60, max_time_ms=1)
    assert len(time_calls(lambda: time.sleep(0.002), CPU, repeats)) == 3
    assert repeats.is_enough([0.1] * 9) is False
    assert repeats.is_enough([0.1] * 10) is True


def test_a_slow_call_is_a_timeout() -> None:
    with pytest.raises(TimeoutError, match="more than max_call_s"):
        time_ms(lambda: time.sleep(0.01), CPU, max_call_s=0.001)


def test_warming_up_ends_when_two_calls_agree_and_says_so() -> None:
    naps = iter([0.03, 0.01, *[0.01] * 9])
    found = measure_calls(lambda: time.sleep(next(naps)), CPU, Repeats(2, 0, 5, 60))
    assert (found.clock, len(found.samples_ms)) == ("host", 2)
    assert found.calls >= 5 if found.is_stable else found.calls == 7
    naps = iter([0.001 * 2**i for i in range(8)])
    found = measure_calls(lambda: time.sleep(next(naps)), CPU, Repeats(1, 0, 3, 60))
    assert (found.is_stable, found.calls) == (False, 4)


class FakeCuda:
    """Stands in for torch.cuda: the device needs `device_ms` for each call that is started."""

    def __init__(self, device_ms: float) -> None:
        self.device_ms, self.now_ms, self.log = device_ms, 0.0, list[str]()

    def call(self) -> None:
        self.log.append("call")
        self.now_ms += self.device_ms

    def synchronize(self) -> None:
        self.log.append("synchronize")

    def graph_of(self, call: Callable[[], object]) -> Callable[[], object]:
        def replay() -> None:
            self.log.append("replay")
            call()

        return replay

    def Event(self, enable_timing: bool) -> Any:
        cuda = self

        class Event:
            at_ms = 0.0

            def record(self) -> None:
                self.at_ms = cuda.now_ms

            def synchronize(self) -> None: ...

            def elapsed_time(self, stop: Any) -> float:
                return float(stop.at_ms - self.at_ms)

        return Event()


@pytest.fixture
def make_cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], FakeCuda]:
    def make(device_ms: float) -> FakeCuda:
        cuda = FakeCuda(device_ms)
        monkeypatch.setattr(torch, "cuda", cuda)

        def replayed(call: Callable[[], object]) -> Callable[[], object]:
            def replay() -> object:
                cuda.log.append("replay")
                return call()

            return replay

        monkeypatch.setattr(timing, "_l2_flush", lambda device: lambda: cuda.log.append("flush"))
        monkeypatch.setattr(timing, "graph_of", replayed)
        return cuda

    return make


def test_on_cuda_the_time_is_that_between_events_whatever_the_host_took(make_cuda: Callable[[float], FakeCuda]) -> None:
    cuda = make_cuda(7.0)
    found = measure_calls(cuda.call, torch.device("cuda"), Repeats(3, 0, 2, 60))
    assert (found.samples_ms, found.clock, found.is_stable, found.calls) == ([7.0] * 3, "events", True, 5)
    assert "flush" not in cuda.log


def test_a_kernel_finds_the_cache_empty(make_cuda: Callable[[float], FakeCuda]) -> None:
    cuda = make_cuda(1e6)
    found = measure_calls(cuda.call, torch.device("cuda"), Repeats(2, 0, 0, 1e9), kernel=True)
    assert (found.clock, cuda.log[-6:]) == ("events", ["flush", "synchronize", "call"] * 2)


def test_a_kernel_whose_launch_takes_longer_than_its_run_is_replayed_from_a_graph(
    make_cuda: Callable[[float], FakeCuda],
) -> None:
    cuda = make_cuda(1e-9)
    found = measure_calls(cuda.call, torch.device("cuda"), Repeats(2, 0, 0, 60), kernel=True)
    assert (found.clock, cuda.log.count("replay")) == ("graph", 2)


@pytest.mark.gpu
def test_a_graph_gives_the_same_and_events_agree_with_the_host() -> None:
    device = torch.device("cuda")
    x, out = torch.randn(4096, 4096, device=device), torch.empty(4096, 4096, device=device)
    replay = timing.graph_of(lambda: torch.mm(x, x, out=out))
    expected = x @ x
    out.zero_()
    replay()
    torch.cuda.synchronize()
    torch.testing.assert_close(out, expected)
    found = measure_calls(lambda: x @ x, device, Repeats(5, 0, 3, 60), kernel=True)
    start = time.perf_counter()
    for _ in range(50):
        torch.mm(x, x)
    torch.cuda.synchronize()
    host_ms = (time.perf_counter() - start) * 1e3 / 50
    assert 0.5 * host_ms < min(found.samples_ms) < 2 * host_ms

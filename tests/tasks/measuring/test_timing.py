"""Tests of tasks/measuring/timing.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from hedgebench.tasks.measuring import timing
from hedgebench.tasks.measuring.cuda_graphs import graph_of
from hedgebench.tasks.measuring.telemetry import Telemetry
from hedgebench.tasks.measuring.timing import Repeats, Stopwatch, first_call_s, measure_calls

from ..conftest import SleepClock

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def times(count: int, warmup: int, max_call_s: float = 60) -> Repeats:
    return Repeats(count, 0, warmup, max_call_s, min_warmup_ms=0)


def test_a_sleep_takes_as_long_as_it_says() -> None:
    assert Stopwatch(CPU, max_call_s=60).time(lambda: time.sleep(0.005)).ms >= 5


def test_calls_are_warmed_up_and_every_sample_is_kept() -> None:
    calls: list[int] = []
    samples = measure_calls(lambda: calls.append(1), CPU, times(4, 3)).samples_ms
    assert len(samples) == 4
    assert 5 <= len(calls) <= 7


def test_short_calls_are_repeated_for_the_least_time_but_not_without_end() -> None:
    repeats = Repeats(count=2, min_time_ms=1e9, warmup=0, max_call_s=60)
    assert len(measure_calls(lambda: None, CPU, repeats).samples_ms) == 40


def test_slow_calls_are_repeated_less_but_never_less_than_three_times(sleep_clock: SleepClock) -> None:
    repeats = Repeats(count=10, min_time_ms=0, warmup=0, max_call_s=60, max_time_ms=1)
    found = measure_calls(lambda: sleep_clock.sleep(0.002), CPU, repeats)
    assert found.samples_ms == pytest.approx([2.0] * 3)
    assert repeats.is_enough([0.1] * 9) is False
    assert repeats.is_enough([0.1] * 10) is True


def test_a_slow_call_is_a_timeout() -> None:
    with pytest.raises(TimeoutError, match="more than max_call_s"):
        Stopwatch(CPU, max_call_s=0.001).time(lambda: time.sleep(0.01))


def test_warming_up_ends_when_two_calls_agree_and_says_so(sleep_clock: SleepClock) -> None:
    naps = iter([0.03, 0.01, *[0.01] * 9])
    found = measure_calls(lambda: sleep_clock.sleep(next(naps)), CPU, times(2, 5))
    assert (found.clock, found.is_stable, found.warmup_calls) == ("host", True, 3)
    assert found.samples_ms == pytest.approx([10.0] * 2)
    naps = iter([0.001 * 2**i for i in range(8)])
    found = measure_calls(lambda: sleep_clock.sleep(next(naps)), CPU, times(1, 3))
    assert (found.is_stable, found.warmup_calls) == (False, 3)


def test_warming_up_takes_a_least_time_however_soon_calls_agree() -> None:
    calls: list[int] = []
    repeats = Repeats(1, 0, 2, 60, min_warmup_ms=20)
    start = time.perf_counter()
    found = measure_calls(lambda: calls.append(1), CPU, repeats)
    assert time.perf_counter() - start >= 0.02
    assert found.warmup_calls == len(calls) - 1 > 2
    assert measure_calls(lambda: None, CPU, Repeats(1, 0, 0, 60, min_warmup_ms=1e9)).warmup_calls == 0


def test_the_first_call_may_take_as_long_as_it_needs_and_its_seconds_are_told(sleep_clock: SleepClock) -> None:
    naps = iter([0.03, 0.01, 0.01])
    assert first_call_s(lambda: sleep_clock.sleep(next(naps)), CPU) == pytest.approx(0.03)
    found = measure_calls(lambda: sleep_clock.sleep(next(naps)), CPU, times(2, 0, max_call_s=0.02))
    assert found.samples_ms == pytest.approx([10.0] * 2)


class FakeCuda:
    """Stands in for torch.cuda: a queue of work that the device needs time for, and a host that needs time to start it.

    Events take the time at which the device comes to them, as CUDA's do: an idle device waits for the host.
    """

    def __init__(self, device_ms: float, host_ms: float = 0.0) -> None:
        self.device_ms, self.host_ms, self.log = device_ms, host_ms, list[str]()
        self.host_at_ms = self.device_at_ms = 0.0

    def run(self, name: str, device_ms: float, host_ms: float = 0.0) -> None:
        self.log.append(name)
        self.host_at_ms += host_ms
        self.device_at_ms = max(self.device_at_ms, self.host_at_ms) + device_ms

    def call(self) -> None:
        self.run("call", self.device_ms, self.host_ms)

    def synchronize(self, device: object = None) -> None:
        self.log.append("synchronize")
        self.host_at_ms = max(self.host_at_ms, self.device_at_ms)

    def Event(self, enable_timing: bool) -> Any:
        cuda = self

        class Event:
            at_ms = 0.0

            def record(self) -> None:
                cuda.log.append("event")
                self.at_ms = cuda.device_at_ms = max(cuda.device_at_ms, cuda.host_at_ms)

            def synchronize(self) -> None:
                cuda.synchronize()

            def elapsed_time(self, stop: Any) -> float:
                return float(stop.at_ms - self.at_ms)

        return Event()


FLUSH_MS = 0.1


@pytest.fixture
def make_cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeCuda]:
    def make(device_ms: float, host_ms: float = 0.0, no_graph: str = "") -> FakeCuda:
        cuda = FakeCuda(device_ms, host_ms)
        monkeypatch.setattr(torch, "cuda", cuda)

        def try_graph(call: object, device: object) -> tuple[Callable[[], None] | None, str]:
            return (None if no_graph else lambda: cuda.run("replay", device_ms)), no_graph

        def on_host(call: Callable[[], object]) -> timing.Sample:
            before_ms = cuda.host_at_ms
            call()
            return timing.Sample(cuda.host_at_ms - before_ms, cuda.host_at_ms - before_ms)

        @contextmanager
        def capture_stream(device: object) -> Iterator[None]:
            cuda.log.append("capture stream")
            yield

        monkeypatch.setattr(timing, "l2_flush", lambda device: lambda: cuda.run("flush", FLUSH_MS))
        monkeypatch.setattr(timing, "try_graph", try_graph)
        monkeypatch.setattr(timing, "capture_stream", capture_stream)
        monkeypatch.setattr(timing, "_on_host", on_host)
        return cuda

    return make


def test_on_cuda_the_time_is_that_between_events_with_what_starting_takes(make_cuda: Callable[..., FakeCuda]) -> None:
    cuda = make_cuda(7.0, 2.0)
    found = measure_calls(cuda.call, CUDA, times(3, 2))
    assert found.samples_ms == pytest.approx([9.0] * 3)
    assert (found.clock, found.is_stable) == ("events", True)
    assert not {"flush", "capture stream"} & set(cuda.log)


def test_the_first_call_on_cuda_is_waited_for(make_cuda: Callable[..., FakeCuda]) -> None:
    cuda = make_cuda(7.0)
    first_call_s(cuda.call, CUDA)
    assert cuda.log == ["synchronize", "call", "synchronize"]


def test_a_kernel_is_started_while_the_cache_is_still_flushed_so_that_starting_takes_none_of_its_time(
    make_cuda: Callable[..., FakeCuda],
) -> None:
    cuda = make_cuda(1.0, FLUSH_MS / 2)
    found = measure_calls(cuda.call, CUDA, times(2, 0), kernel=True)
    assert found.clock == "events"
    assert found.samples_ms == pytest.approx([1.0] * 2)
    assert cuda.log[0] == "capture stream"
    assert cuda.log[-6:] == ["synchronize", "flush", "event", "call", "event", "synchronize"]


def test_a_kernel_whose_launch_takes_longer_than_its_run_is_replayed_from_a_graph(
    make_cuda: Callable[..., FakeCuda],
) -> None:
    cuda = make_cuda(0.01, 5.0)
    found = measure_calls(cuda.call, CUDA, times(2, 0), kernel=True)
    assert (found.clock, cuda.log.count("replay")) == ("graph", 2)
    assert found.samples_ms == pytest.approx([0.01] * 2)
    assert found.notes[0].startswith("timed by replaying a CUDA graph")


def test_a_kernel_that_cannot_be_captured_is_timed_between_events_and_says_why(
    make_cuda: Callable[..., FakeCuda],
) -> None:
    cuda = make_cuda(0.01, 5.0, no_graph="RuntimeError: it waits")
    found = measure_calls(cuda.call, CUDA, times(2, 0), kernel=True)
    assert (found.clock, found.no_graph, cuda.log.count("replay")) == ("events", "RuntimeError: it waits", 0)
    assert found.notes == [
        "timed between events, including the start of the call, which could not be captured: RuntimeError: it waits"
    ]


def test_the_device_is_looked_at_while_it_works_and_the_window_holds_the_timed_calls_alone(
    make_cuda: Callable[..., FakeCuda],
) -> None:
    cuda = make_cuda(7.0)

    class Watch(Telemetry):
        @contextmanager
        def window(self) -> Iterator[None]:
            cuda.log.append("window opens")
            yield
            cuda.log.append("window closes")

        def look(self) -> None:
            cuda.log.append("look")

    measure_calls(cuda.call, CUDA, times(1, 1), watch=Watch())
    one = ["synchronize", "event", "call", "event", "look", "synchronize"]
    assert cuda.log == [*one, "window opens", *one, "window closes"]


def test_a_stopwatch_takes_one_call_after_another(make_cuda: Callable[..., FakeCuda]) -> None:
    cuda = make_cuda(1.0, 5.0)
    sample = Stopwatch(CUDA, 60).time(cuda.call)
    assert (sample.ms, sample.host_ms, sample.is_mostly_starting) == (6.0, 5.0, True)
    with pytest.raises(TimeoutError, match="more than max_call_s"):
        Stopwatch(CUDA, 0.001).time(cuda.call)


@pytest.mark.gpu
def test_a_graph_gives_the_same_and_events_agree_with_the_host() -> None:
    device = torch.device("cuda")
    x, out = torch.randn(4096, 4096, device=device), torch.empty(4096, 4096, device=device)
    replay = graph_of(lambda: torch.mm(x, x, out=out), device)
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

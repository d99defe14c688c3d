"""Contenders one after another: what one of them does to itself, the device or memory costs the others nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from hedgebench.tasks.base import Row
from hedgebench.tasks.kernel_speed import bench as bench_module
from hedgebench.tasks.kernel_speed.bench import ROUNDS, KernelBench
from hedgebench.tasks.kernel_speed.shapes import KernelShape
from hedgebench.tasks.kernel_speed.workloads import Prepare, TimedCall
from hedgebench.tasks.measuring.telemetry import UNWATCHED
from hedgebench.tasks.measuring.timing import Repeats, Timing

from ..conftest import SleepClock

pytestmark = pytest.mark.usefixtures("sleep_clock", "brief_collections")

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SHAPES = [KernelShape(1, tokens, 2, 16) for tokens in (8, 16, 32)]
REPEATS = Repeats(count=2, min_time_ms=0.0, warmup=1, max_call_s=0.02, min_warmup_ms=0.0)


def contender(run: Callable[[int], object] = lambda _: None) -> Prepare:
    """Calls `run` with the tokens."""

    def prepare(shape: KernelShape, device: torch.device, dtype: torch.dtype) -> Mapping[str, TimedCall]:
        return {"forward": lambda: (run(shape.tokens), "it/torch")}

    return prepare


def fails_at(tokens: int, error: Exception) -> Prepare:
    def run(now: int) -> None:
        if now == tokens:
            raise error

    return contender(run)


def rows_of(bench: KernelBench) -> list[Row]:
    return list(bench.climb(list(bench.contenders), SHAPES))


def test_a_mistake_of_one_contender_costs_its_point_and_is_told() -> None:
    contenders = {"broken": fails_at(16, KeyError("no such thing")), "sound": contender()}
    rows = rows_of(KernelBench(contenders, REPEATS, CPU, torch.float32))
    assert [(row["contender"], row["status"]) for row in rows] == [
        ("broken", "ok"), ("sound", "ok"), ("broken", "error"), ("sound", "ok"), ("broken", "ok"), ("sound", "ok"),
    ]  # fmt: skip
    failed = rows[2]
    assert (failed["error"], failed["message"]) == ("KeyError", "broken at 1x16x2x16: 'no such thing'")
    assert "raise error" in failed["log_tail"]
    assert failed["notes"] == ["error: broken at 1x16x2x16: 'no such thing'"]
    assert len(rows[0]["calls"]["forward"]["samples_ms"]) == ROUNDS * REPEATS.count


def test_contenders_take_turns_at_each_shape_and_one_that_failed_is_not_tried_again() -> None:
    tried: list[tuple[str, int]] = []

    def noted(name: str, fails: bool = False) -> Prepare:
        def prepare(shape: KernelShape, device: torch.device, dtype: torch.dtype) -> Mapping[str, TimedCall]:
            tried.append((name, shape.tokens))
            if fails:
                raise KeyError(name)
            return {"forward": lambda: (None, "it/torch")}

        return prepare

    bench = KernelBench(
        {"one": noted("one"), "two": noted("two", True), "three": noted("three")}, REPEATS, CPU, torch.float32
    )
    list(bench.climb(["one", "two", "three"], SHAPES[:2]))
    assert tried == [(name, tokens) for tokens in (8, 16) for name in ("one", "two", "three", "one", "three")]


def test_a_result_is_checked_before_its_call_is_timed() -> None:
    log: list[object] = []

    def check(*given: object) -> float:
        log.append(given[:3])
        raise ValueError("another function")

    bench = KernelBench({"it": contender(log.append)}, REPEATS, CPU, torch.float32, check)
    rows = rows_of(bench)
    assert log == [8, ("it", "forward", None), 16, ("it", "forward", None), 32, ("it", "forward", None)]
    assert [row["message"] for row in rows] == [f"it at {shape.name}: another function" for shape in SHAPES]


@pytest.mark.parametrize(("error", "status", "tried"), [
    (MemoryError("all gone"), "oom", 2), (TimeoutError("too slow"), "timeout", 2),
    (NotImplementedError("not here"), "unsupported", 3),
])  # fmt: skip
def test_limits_are_no_mistakes_and_end_a_climb_where_longer_is_worse(
    error: Exception, status: str, tried: int
) -> None:
    rows = rows_of(KernelBench({"it": fails_at(16, error)}, REPEATS, CPU, torch.float32))
    assert [row["status"] for row in rows] == ["ok", status, "ok"][:tried]


def test_compiling_is_no_timeout(sleep_clock: SleepClock) -> None:
    compiled: set[int] = set()

    def run(tokens: int) -> None:
        if tokens not in compiled:
            compiled.add(tokens)
            sleep_clock.sleep(2 * REPEATS.max_call_s)

    rows = rows_of(KernelBench({"it": contender(run)}, REPEATS, CPU, torch.float32))
    assert [row["status"] for row in rows] == ["ok"] * 3
    assert [row["calls"]["forward"]["first_call_s"] for row in rows] == pytest.approx([2 * REPEATS.max_call_s] * 3)
    assert [row["calls"]["forward"]["samples_ms"] for row in rows] == [[0.0] * ROUNDS * REPEATS.count] * 3


class FakeCuda:
    """Stands in for torch.cuda: memory in use, and whether the device still answers."""

    def __init__(self) -> None:
        self.allocated, self.peak, self.is_lost = 0, 0, False
        self.log: list[str] = []

    def synchronize(self, device: torch.device) -> None:
        if self.is_lost:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore of it")

    def get_device_properties(self, device: torch.device) -> None:
        self.log.append("properties")

    def use(self, size: int) -> None:
        self.allocated += size
        self.peak = max(self.peak, self.allocated)

    def reset_peak_memory_stats(self, device: torch.device) -> None:
        self.peak = self.allocated

    def max_memory_allocated(self, device: torch.device) -> int:
        return self.peak


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """Timing takes 256 bytes for its flush, and no time; nothing is told of the device."""
    cuda = FakeCuda()
    monkeypatch.setattr(torch, "cuda", cuda)

    def measure_calls(call: Callable[[], object], *args: Any, **options: Any) -> Any:
        cuda.use(256)
        call()
        cuda.allocated -= 256
        return Timing([1.0], "events", True, 1, "it waits for the device")

    def first_call_s(call: Callable[[], object], device: torch.device) -> float:
        call()
        return 1.0

    monkeypatch.setattr(bench_module, "measure_calls", measure_calls)
    monkeypatch.setattr(bench_module, "first_call_s", first_call_s)
    monkeypatch.setattr(bench_module, "telemetry", lambda device: nullcontext(UNWATCHED))
    monkeypatch.setattr(bench_module, "release_memory", lambda: cuda.synchronize(CUDA))
    return cuda


def test_a_lost_device_ends_everything_but_what_was_measured(cuda: FakeCuda) -> None:
    tried: list[int] = []

    def run(tokens: int) -> None:
        tried.append(tokens)
        if tokens == 16:
            cuda.is_lost = True
        cuda.synchronize(CUDA)

    bench = KernelBench({"wild": contender(run), "next": contender(tried.append)}, REPEATS, CUDA, torch.float32)
    rows = rows_of(bench)
    assert [row["status"] for row in rows] == ["ok", "ok", "error", "error", "error", "error"]
    assert rows[2]["error"] == "AcceleratorError"
    lost = "the device is lost (AcceleratorError: CUDA error: an illegal memory access was encountered)"
    assert {row["message"].partition(": ")[2] for row in rows[3:]} == {f"not tried: {lost}"}
    assert set(tried) == {8, 16}
    assert cuda.log == ["properties"]


def test_a_device_that_still_answers_is_not_lost(cuda: FakeCuda) -> None:
    contenders = {"broken": fails_at(16, RuntimeError("a launch was refused")), "sound": contender()}
    rows = rows_of(KernelBench(contenders, REPEATS, CUDA, torch.float32))
    assert [row["status"] for row in rows] == ["ok", "ok", "error", "ok", "ok", "ok"]


def test_each_call_has_its_own_peak_without_what_timing_takes_and_says_how_it_was_timed(cuda: FakeCuda) -> None:
    def passing(size: int) -> TimedCall:
        def call() -> tuple[object, str]:
            cuda.use(size)
            cuda.allocated -= size
            return None, "it/torch"

        return call

    def prepare(shape: KernelShape, device: torch.device, dtype: torch.dtype) -> Mapping[str, TimedCall]:
        cuda.use(10)
        return {"forward_backward": passing(100), "backward": passing(30)}

    (row, *_) = rows_of(KernelBench({"it": prepare}, REPEATS, CUDA, torch.float32))
    starts = [note.partition(": timed between events")[0] for note in row["notes"]]
    assert starts == ["it, forward_backward", "it, backward"]
    assert row["calls"]["backward"]["no_graph"] == "it waits for the device"
    assert {name: call["peak_bytes"] for name, call in row["calls"].items()} == {
        "forward_backward": 110,
        "backward": 40,
    }

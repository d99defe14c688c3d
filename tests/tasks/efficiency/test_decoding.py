"""Tests of tasks/efficiency/decoding.py, on a fake device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch

from hedgebench.tasks.efficiency import decoding
from hedgebench.tasks.efficiency.decoding import time_decoding, tokens_decoded
from hedgebench.tasks.efficiency.points import Role, point_of_mode
from hedgebench.tasks.efficiency.subjects import Calls
from hedgebench.tasks.measuring.telemetry import UNWATCHED
from hedgebench.tasks.measuring.timing import Repeats, Sample, Stopwatch

TIMES = Repeats(count=3, min_time_ms=0, warmup=2, max_call_s=60)


class FakeCalls:
    """Logs what is decoded; the state is the number of tokens before."""

    def __init__(self, device: str) -> None:
        self.device, self.positions = torch.device(device), list[int]()
        self.prefilled = 0

    def inputs(self, batch_size: int, seq_len: int) -> int:
        return seq_len

    def prefill(self, inputs: int, seq_len: int) -> int:
        self.prefilled = seq_len
        return seq_len

    def decode(self, inputs: int, position: int, state: int) -> int:
        assert state == position < inputs
        self.positions.append(position)
        return state + 1


class FakeStopwatch:
    """Every call takes the device `ms` and the host `host_ms` to start; a replay takes the device a tenth."""

    watch = UNWATCHED

    def __init__(self, ms: float, host_ms: float) -> None:
        self.ms, self.host_ms = ms, host_ms

    def time(self, call: Callable[[], object]) -> Sample:
        return Sample(self.ms / 10 if call() == "replay" else self.ms, self.host_ms)


@pytest.fixture
def decode(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[FakeCalls, dict[str, Any]]]:
    def run(device: str, ms: float, host_ms: float, no_graph: str = "", role: Role = "sweep") -> Any:
        def try_graph(call: Callable[[], object], device: object) -> Any:
            call()
            call()
            return (None if no_graph else lambda: "replay"), no_graph

        monkeypatch.setattr(decoding, "try_graph", try_graph)
        monkeypatch.setattr(decoding, "first_call_s", lambda call, device: float(call() is None))
        calls = FakeCalls(device)
        stopwatch = cast(Stopwatch, FakeStopwatch(ms, host_ms))
        found = time_decoding(cast(Calls, calls), point_of_mode("decode", 32, 1, role), TIMES, stopwatch)
        return calls, found

    return run


def test_on_the_processor_tokens_follow_one_another_up_to_the_length(decode: Callable[..., Any]) -> None:
    calls, found = decode("cpu", 4.0, 4.0)
    assert (calls.prefilled, calls.positions) == (26, [26, 27, 28, 29, 30, 31])
    assert len(calls.positions) == tokens_decoded(2, 3, graph=False)
    assert found == {
        "first_call_s": 1.0,
        "samples_ms": [4.0] * 3,
        "clock": "host",
        "no_graph": "",
        "notes": [],
    }


def test_where_starting_dominates_the_last_token_is_replayed_and_both_times_are_kept(
    decode: Callable[..., Any],
) -> None:
    calls, found = decode("cuda", 4.0, 3.9)
    assert (calls.prefilled, calls.positions[-1]) == (24, 31)
    assert len(calls.positions) == tokens_decoded(2, 3, graph=True)
    assert (found["clock"], found["samples_ms"], found["started_samples_ms"]) == ("graph", [0.4] * 3, [4.0] * 3)
    assert found["notes"][0].startswith("timed by replaying a CUDA graph")


def test_tokens_that_cannot_be_captured_are_timed_between_events_and_say_why(decode: Callable[..., Any]) -> None:
    _, found = decode("cuda", 4.0, 3.9, no_graph="RuntimeError: it waits")
    assert (found["clock"], found["samples_ms"], found["no_graph"]) == ("events", [4.0] * 3, "RuntimeError: it waits")
    assert "could not be captured: RuntimeError: it waits" in found["notes"][0]


@pytest.mark.parametrize(("host_ms", "role"), [(1.0, "sweep"), (3.9, "probe")])
def test_tokens_that_keep_the_device_busy_and_probes_are_not_captured(
    decode: Callable[..., Any], host_ms: float, role: Role
) -> None:
    calls, found = decode("cuda", 4.0, host_ms, role=role)
    assert (len(calls.positions), found["clock"], found["notes"]) == (6, "events", [])

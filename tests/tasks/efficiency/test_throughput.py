"""Tests of tasks/efficiency/throughput.py."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from hedgebench.adapters.base import Adapter, ModelShape, UnsupportedError, Value
from hedgebench.results.record import Metric, Status
from hedgebench.tasks.base import Row, Sources, Task
from hedgebench.tasks.efficiency import modes, throughput
from hedgebench.tasks.efficiency.points import Point, Role, point_of_mode
from hedgebench.tasks.efficiency.subjects import Compiled
from hedgebench.tasks.efficiency.throughput import THROUGHPUT
from hedgebench.tasks.measuring.machine import MACHINE

from ..conftest import SleepClock

pytestmark = pytest.mark.usefixtures("brief_collections")

SETTINGS: dict[str, Value] = {
    "seq_lens": (16, 32, 64),
    "modes": "prefill+train+decode",
    "repeats": 3,
    "min_time_ms": 0.0,
    "warmup": 2,
    "min_warmup_ms": 0.0,
    "batch_size": 2,
}
PACE_MS = {"compute": [1.0], "calls": [2.0], "memory": [3.0]}


@pytest.fixture(autouse=True)
def _quick_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixed work of the pace takes a second each time; its own tests time it."""
    monkeypatch.setattr(throughput, "measure_pace", lambda device: PACE_MS)


def fake(**methods: Callable[..., Any]) -> Adapter:
    """An adapter that is quick at everything, but for the methods given."""
    quick: dict[str, Callable[..., Any]] = {
        "prefill": lambda tokens: (None, tokens.shape[1]),
        "training_step": lambda tokens, targets: 0.0,
        "decode": lambda token, state: (None, state + 1),
    }
    return cast(Adapter, SimpleNamespace(device=torch.device("cpu"), shape=ModelShape(4096, 256), **(quick | methods)))


def measure(adapter: Adapter, sources: Sources, **settings: Any) -> list[Metric]:
    chosen = {**SETTINGS, **settings}
    return THROUGHPUT.score(THROUGHPUT.predict(adapter, THROUGHPUT.load(chosen, sources), chosen), chosen)


def row(mode: str, seq_len: int, *samples_ms: float, status: Status = "ok", role: Role = "sweep", **found: Any) -> Row:
    return point_of_mode(mode, seq_len, 2, role).row(status, {"samples_ms": list(samples_ms), **found})


def test_it_is_a_task() -> None:
    assert isinstance(THROUGHPUT, Task)


def test_the_shape_fits_the_longest_length(sources: Sources) -> None:
    data = THROUGHPUT.load(SETTINGS, sources)
    assert (data.shape.context_length, data.test, data.train) == (64, (16, 32, 64), None)


def test_every_mode_is_measured_at_every_length(sources: Sources) -> None:
    metrics = measure(fake(), sources)
    for mode in ("prefill", "train", "decode"):
        points = [metric for metric in metrics if metric.name == f"{mode}_ms"]
        assert [metric.at["seq_len"] for metric in points] == [16, 32, 64]
        assert all(metric.n == len(metric.samples) == 3 and metric.stderr is not None for metric in points)
        assert mode in {metric.at["of"] for metric in metrics if metric.name == "time_exponent"}


def test_a_call_takes_at_least_as_long_as_it_sleeps(sources: Sources) -> None:
    def sleepy(tokens: torch.Tensor) -> tuple[None, None]:
        time.sleep(tokens.shape[1] / 4000)
        return None, None

    metrics = measure(fake(prefill=sleepy), sources, modes="prefill")
    points = [metric for metric in metrics if metric.name == "prefill_ms"]
    assert all(min(metric.samples) >= int(metric.at["seq_len"] or 0) / 4 for metric in points)


def test_quadratic_times_have_exponent_two() -> None:
    rows = [row("prefill", n, 1e-3 * n * n, 1e-3 * n * n) for n in (16, 32, 64)]
    metrics = {metric.name: metric for metric in THROUGHPUT.score(rows, {**SETTINGS, "modes": "prefill"})}
    exponent = metrics["time_exponent"]
    assert exponent.value == pytest.approx(2)
    assert (exponent.n, exponent.at["over"]) == (3, "16..64")


def test_decoding_ends_at_the_sequence_length(sources: Sources) -> None:
    states: list[int] = []

    def decode(token: torch.Tensor, state: int) -> tuple[None, int]:
        assert token.shape == (2,)
        states.append(state)
        return None, state + 1

    measure(fake(decode=decode), sources, modes="decode", seq_lens=(16,))
    assert states == [10, 11, 12, 13, 14, 15]


def test_tokens_per_second_follow_from_milliseconds() -> None:
    rows = [row("prefill", 64, 10.0, 20.0, 30.0), row("decode", 64, 4.0, 4.0)]
    metrics = {metric.name: metric for metric in THROUGHPUT.score(rows, {**SETTINGS, "modes": "prefill+decode"})}
    assert metrics["prefill_ms"].value == 20.0
    assert metrics["prefill_ms"].samples == (10.0, 20.0, 30.0)
    assert metrics["prefill_tokens_per_s"].value == pytest.approx(2 * 64 / 0.020)
    assert metrics["decode_tokens_per_s"].value == pytest.approx(2 / 0.004)
    assert metrics["longest_prefill_tokens_per_s"].value == metrics["prefill_tokens_per_s"].value


def test_running_out_of_memory_is_a_point_and_ends_the_mode(sources: Sources) -> None:
    def prefill(tokens: torch.Tensor) -> tuple[None, int]:
        if tokens.shape[1] >= 32:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return None, 0

    metrics = measure(fake(prefill=prefill), sources, modes="prefill+train")
    points = [(m.at["seq_len"], m.status) for m in metrics if m.name == "prefill_ms"]
    assert points == [(16, "ok"), (32, "oom")]
    assert len([metric for metric in metrics if metric.name == "train_ms"]) == 3
    (headline,) = (metric for metric in metrics if metric.name == THROUGHPUT.info.main_metric)
    assert (headline.value, headline.status, headline.at) == (None, "oom", {})


def test_what_an_adapter_cannot_do_is_unsupported(sources: Sources) -> None:
    def decode(token: torch.Tensor, state: int) -> None:
        raise UnsupportedError("this mechanism has no decode state")

    metrics = measure(fake(decode=decode), sources, modes="decode")
    points = [metric for metric in metrics if metric.name != "pace_ms"]
    assert [(metric.value, metric.status) for metric in points] == [(None, "unsupported")] * 6


def test_lengths_too_short_to_decode_are_refused(sources: Sources) -> None:
    with pytest.raises(ValueError, match=r"seq_lens holds 8; decoding .* needs over 8"):
        THROUGHPUT.identify({**SETTINGS, "seq_lens": (8, 64)}, sources)


def test_layers_alone_are_left_to_runs(sources: Sources) -> None:
    points = [m for m in measure(fake(), sources, modes="layer_prefill") if m.name == "layer_prefill_ms"]
    assert [(metric.value, metric.status) for metric in points] == [(None, "unsupported")] * 3


def test_generating_feeds_back_what_the_model_chose_and_times_the_first_token_apart(
    sources: Sources, sleep_clock: SleepClock
) -> None:
    fed: list[list[int]] = []

    def prefill(tokens: torch.Tensor) -> tuple[torch.Tensor, int]:
        sleep_clock.sleep(0.02)
        return torch.nn.functional.one_hot(torch.full((2,), 3), 8).float(), tokens.shape[1]

    def decode(token: torch.Tensor, state: int) -> tuple[torch.Tensor, int]:
        sleep_clock.sleep(0.005)
        fed.append(token.tolist())
        return torch.nn.functional.one_hot((token + 1) % 8, 8).float(), state + 1

    metrics = measure(fake(prefill=prefill, decode=decode), sources, modes="generate", seq_lens=(16,))
    found = {metric.name: metric for metric in metrics}
    assert fed == [[3, 3], [4, 4], [5, 5], [6, 6], [7, 7], [0, 0]]
    assert found["generate_first_token_ms"].value == pytest.approx(20)
    assert found["generate_per_token_ms"].value == pytest.approx(5)
    assert found["generate_tokens_per_s"].value == pytest.approx(2e3 / 5)
    assert THROUGHPUT.load({**SETTINGS, "modes": "generate"}, sources).shape.context_length == 64 + 6


def test_the_largest_batch_that_fits_is_found_and_measured(sources: Sources) -> None:
    def prefill(tokens: torch.Tensor) -> tuple[None, int]:
        if tokens.numel() > 16 * 5:
            raise MemoryError
        return None, tokens.shape[1]

    chosen = {"modes": "prefill", "largest_batch": "prefill", "seq_lens": (16, 32), "batch_size": 1}
    metrics = {(m.name, m.at.get("seq_len")): m for m in measure(fake(prefill=prefill), sources, **chosen)}
    assert metrics["prefill_largest_batch", 16].value == 5
    assert metrics["prefill_largest_batch", 32].value == 2
    assert metrics["prefill_largest_batch_tokens_per_s", 16].n == 3


def test_a_largest_batch_is_called_so_only_where_a_larger_one_ran_out_of_memory(sources: Sources) -> None:
    chosen = {"modes": "prefill", "largest_batch": "prefill", "seq_lens": (16,), "max_batch": 4}
    names = {metric.name: metric for metric in measure(fake(), sources, **chosen)}
    assert names["prefill_batch_at_least"].value == 4
    assert "prefill_largest_batch" not in names


def test_percentiles_stand_beside_the_median() -> None:
    rows = [row("prefill", 64, *map(float, range(1, 12)))]
    metrics = {metric.name: metric.value for metric in THROUGHPUT.score(rows, {**SETTINGS, "modes": "prefill"})}
    assert (metrics["prefill_ms_p20"], metrics["prefill_ms"], metrics["prefill_ms_p80"]) == (3.0, 6.0, 9.0)


def test_energy_is_that_of_the_timed_calls_over_their_tokens() -> None:
    did = {"lowest_sm_clock_mhz": 1980, "throttled": "power cap", "energy_j": 12.8, "window_s": 2.0}
    rows = [row("prefill", 64, 10.0, 10.0, warmup_calls=8, telemetry=did)]
    metrics = {metric.name: metric.value for metric in THROUGHPUT.score(rows, {**SETTINGS, "modes": "prefill"})}
    assert metrics["prefill_energy_per_token_j"] == pytest.approx(12.8 / (2 * 2 * 64))
    assert (metrics["prefill_lowest_sm_clock_mhz"], metrics["prefill_throttled"]) == (1980, 1)
    short = [row("prefill", 64, 10.0, telemetry={**did, "window_s": 0.1})]
    names = {metric.name for metric in THROUGHPUT.score(short, {**SETTINGS, "modes": "prefill"})}
    assert "prefill_energy_per_token_j" not in names


def test_what_a_device_did_not_tell_is_no_metric() -> None:
    rows = [row("prefill", 64, 10.0, telemetry={"lowest_sm_clock_mhz": 1980, "window_s": 2.0})]
    names = {metric.name for metric in THROUGHPUT.score(rows, {**SETTINGS, "modes": "prefill"})}
    assert "prefill_lowest_sm_clock_mhz" in names
    assert not {"prefill_throttled", "prefill_energy_per_token_j"} & names


@pytest.mark.parametrize("role", ["sweep", "probe"])
def test_a_first_call_that_compiles_is_no_timeout_and_its_seconds_are_told(role: Role, sleep_clock: SleepClock) -> None:
    calls: list[int] = []

    def compiles(tokens: torch.Tensor, targets: torch.Tensor) -> float:
        sleep_clock.sleep(0.05 if calls else 0.2)
        calls.append(1)
        return 0.0

    settings = {**SETTINGS, "max_call_s": 0.1}
    found = THROUGHPUT.measure(fake(training_step=compiles), point_of_mode("train", 16, 2, role), settings)
    assert found["first_call_s"] == pytest.approx(0.2)
    assert found["samples_ms"] == pytest.approx([50.0] * len(found["samples_ms"]))
    slow = fake(training_step=lambda tokens, targets: sleep_clock.sleep(0.15))
    with pytest.raises(TimeoutError):
        THROUGHPUT.measure(slow, point_of_mode("train", 16, 2, role), settings)


@pytest.mark.parametrize(("mode", "context_len"), [("decode", 10), ("generate", 16)])
def test_the_first_decoded_token_is_told_apart_too(mode: str, context_len: int, sleep_clock: SleepClock) -> None:
    def decode(token: torch.Tensor, state: int) -> tuple[torch.Tensor, int]:
        sleep_clock.sleep(0.2 if state == context_len else 0.05)
        return torch.zeros(2, 8), state + 1

    adapter = fake(decode=decode, prefill=lambda tokens: (torch.zeros(2, 8), tokens.shape[1]))
    found = THROUGHPUT.measure(adapter, point_of_mode(mode, 16, 2), {**SETTINGS, "max_call_s": 0.1})
    assert found["first_call_s"] == pytest.approx(0.2)
    assert found["samples_ms"] == pytest.approx([50.0] * 3)


def layer_on_cuda() -> Any:
    return SimpleNamespace(
        device=torch.device("cuda"), shape=ModelShape(64, 256), cost=lambda work, batch_size, seq_len: None
    )


@pytest.mark.parametrize("mode", ["layer_decode", "decode"])
def test_on_cuda_the_cache_is_flushed_before_each_token_of_a_layer_alone(
    monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    flush = object()
    subject = fake() if mode == "decode" else layer_on_cuda()
    subject.device = torch.device("cuda")  # type: ignore[misc]
    monkeypatch.setattr(modes, "l2_flush", lambda device: flush)
    monkeypatch.setattr(modes, "time_decoding", lambda calls, point, repeats, stopwatch: {"flush": stopwatch.flush})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = THROUGHPUT.measure(subject, point_of_mode(mode, 64, 1), SETTINGS)
    assert found["flush"] is (flush if mode == "layer_decode" else None)
    assert "nvidia-ml-py is not installed" in found["notes"][0]


def test_a_second_call_that_compiles_again_is_no_timeout_either(
    monkeypatch: pytest.MonkeyPatch, sleep_clock: SleepClock
) -> None:
    made = 0

    def prefill(tokens: torch.Tensor) -> tuple[None, int]:
        nonlocal made
        made += 1
        sleep_clock.sleep(0.2 if made <= 2 else 0.05)
        return None, tokens.shape[1]

    monkeypatch.setattr(torch, "compile", lambda call, dynamic: call)
    monkeypatch.setattr(modes, "check_compiled", lambda mode: Compiled(2))
    monkeypatch.setattr(modes, "compilations", lambda mode: min(made, 2))
    settings = {**SETTINGS, "max_call_s": 0.1}
    found = THROUGHPUT.measure(fake(prefill=prefill), point_of_mode("compiled_prefill", 16, 2), settings)
    assert found["first_call_s"] == pytest.approx(0.2 + 0.2 + 0.05)  # the third compiled nothing
    assert found["samples_ms"] == pytest.approx([50.0] * len(found["samples_ms"]))


def test_a_compiled_mode_says_where_the_compiler_went_back_to_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda call, dynamic: call)
    monkeypatch.setattr(modes, "check_compiled", lambda mode: Compiled(3, {"print": 2}))
    found = THROUGHPUT.measure(fake(), point_of_mode("compiled_train", 16, 2), SETTINGS)
    assert found["compiled"] == {"graphs": 3, "breaks": {"print": 2}, "skipped": 0, "untraced": {}}
    assert found["notes"] == ["torch.compile made 3 graphs, with plain Python between them: print (2)"]


def test_the_machines_peaks_are_of_the_fastest_sample() -> None:
    peaks = {"gemm_samples_ms": [2.0, 1.0], "gemm_flops": 10**9, "copy_samples_ms": [4.0], "copy_bytes": 4 * 10**6}
    rows = [Point(MACHINE, 0, 0, subject="machine").row("ok", {**peaks, "dtype": "float32"})]
    metrics = {metric.name: metric.value for metric in THROUGHPUT.score(rows, {**SETTINGS, "modes": "prefill"})}
    assert metrics == {"machine_gemm_flops_per_s": 1e12, "machine_copy_bytes_per_s": 1e9}


@pytest.mark.parametrize("scale", ["smoke", "small", "paper"])
def test_every_scale_is_valid(scale: str, sources: Sources) -> None:
    settings = THROUGHPUT.info.scales[scale].settings
    assert THROUGHPUT.identify(settings, sources).source == "generated"
    assert THROUGHPUT.load(settings, sources, limit=1).test == (min(THROUGHPUT.load(settings, sources).test),)

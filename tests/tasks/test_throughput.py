"""Tests of tasks/throughput.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from hedgebench.adapters.base import Adapter, UnsupportedError, Value
from hedgebench.results.record import Metric
from hedgebench.tasks.base import Row, Sources, Task
from hedgebench.tasks.throughput import THROUGHPUT

SETTINGS: dict[str, Value] = {"seq_lens": (16, 32, 64), "repeats": 3, "min_time_ms": 0.0, "warmup": 2, "batch_size": 2}


def fake(**methods: Callable[..., Any]) -> Adapter:
    """An adapter that is quick at everything, but for the methods given."""
    quick: dict[str, Callable[..., Any]] = {
        "prefill": lambda tokens: (None, tokens.shape[1]),
        "training_step": lambda tokens, targets: 0.0,
        "decode": lambda token, state: (None, state + 1),
    }
    return cast(Adapter, SimpleNamespace(device=torch.device("cpu"), **(quick | methods)))


def measure(adapter: Adapter, sources: Sources, **settings: Any) -> list[Metric]:
    chosen = {**SETTINGS, **settings}
    return THROUGHPUT.score(THROUGHPUT.predict(adapter, THROUGHPUT.load(chosen, sources), chosen), chosen)


def row(mode: str, seq_len: int, *samples_ms: float, status: str = "ok") -> Row:
    return {"mode": mode, "seq_len": seq_len, "batch_size": 2, "status": status, "samples_ms": list(samples_ms)}


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
        assert f"{mode}_exponent" in {metric.name for metric in metrics}


def test_a_call_takes_at_least_as_long_as_it_sleeps(sources: Sources) -> None:
    metrics = measure(fake(prefill=lambda tokens: time.sleep(tokens.shape[1] / 4000)), sources, modes="prefill")
    points = [metric for metric in metrics if metric.name == "prefill_ms"]
    assert all(min(metric.samples) >= int(metric.at["seq_len"] or 0) / 4 for metric in points)


def test_quadratic_times_have_exponent_two() -> None:
    rows = [row("prefill", n, 1e-3 * n * n, 1e-3 * n * n) for n in (16, 32, 64)]
    metrics = {metric.name: metric for metric in THROUGHPUT.score(rows, {**SETTINGS, "modes": "prefill"})}
    assert metrics["prefill_exponent"].value == pytest.approx(2)
    assert metrics["prefill_exponent"].n == 3


def test_decoding_ends_at_the_sequence_length(sources: Sources) -> None:
    states: list[int] = []

    def decode(token: torch.Tensor, state: int) -> tuple[None, int]:
        assert token.shape == (2,)
        states.append(state)
        return None, state + 1

    measure(fake(decode=decode), sources, modes="decode", seq_lens=(16,))
    assert states == [11, 12, 13, 14, 15]


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
    assert [(metric.value, metric.status) for metric in points] == [(None, "unsupported")] * 2


def test_lengths_too_short_to_decode_are_refused(sources: Sources) -> None:
    with pytest.raises(ValueError, match="seq_lens holds 5"):
        THROUGHPUT.identify({**SETTINGS, "seq_lens": (5, 64)}, sources)


@pytest.mark.parametrize("scale", ["smoke", "small", "paper"])
def test_every_scale_is_valid(scale: str, sources: Sources) -> None:
    settings = THROUGHPUT.info.scales[scale].settings
    assert THROUGHPUT.identify(settings, sources).source == "generated"
    assert THROUGHPUT.load(settings, sources, limit=1).test == (min(THROUGHPUT.load(settings, sources).test),)

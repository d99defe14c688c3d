"""Tests of tasks/memory.py."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from hedgebench.adapters.base import Adapter, Value
from hedgebench.results.record import Metric
from hedgebench.tasks.base import Sources, Task
from hedgebench.tasks.memory import MEMORY

SETTINGS: dict[str, Value] = {"seq_lens": (16, 32, 64), "batch_size": 2}
FLOAT = 4


def fake(**methods: Callable[..., Any]) -> Adapter:
    """An adapter that allocates n x n floats in prefill, twice that in training, and holds 10 bytes per token."""
    greedy: dict[str, Callable[..., Any]] = {
        "prefill": lambda tokens: torch.zeros(tokens.shape[1], tokens.shape[1]),
        "training_step": lambda tokens, targets: torch.zeros(2, tokens.shape[1], tokens.shape[1]),
        "state_bytes": lambda batch_size, seq_len: 10 * batch_size * seq_len,
    }
    return cast(Adapter, SimpleNamespace(device=torch.device("cpu"), **(greedy | methods)))


def measure(adapter: Adapter, sources: Sources, **settings: Any) -> list[Metric]:
    chosen = {**SETTINGS, **settings}
    return MEMORY.score(MEMORY.predict(adapter, MEMORY.load(chosen, sources), chosen), chosen)


def test_it_is_a_task() -> None:
    assert isinstance(MEMORY, Task)


def test_known_allocations_are_counted_to_the_byte(sources: Sources) -> None:
    metrics = measure(fake(), sources)
    peaks = {(m.at["mode"], m.at["seq_len"]): m.value for m in metrics if m.name == "peak_allocated_bytes"}
    assert peaks == {
        **{("prefill", n): n * n * FLOAT for n in (16, 32, 64)},
        **{("train", n): 2 * n * n * FLOAT for n in (16, 32, 64)},
    }
    states = {m.at["seq_len"]: m.value for m in metrics if m.name == "state_bytes"}
    assert states == {n: 20 * n for n in (16, 32, 64)}


def test_the_headline_is_the_peak_at_the_longest_length(sources: Sources) -> None:
    headline = measure(fake(), sources)[0]
    assert (headline.name, headline.value, headline.at) == (MEMORY.info.main_metric, 64 * 64 * FLOAT, {})


def test_running_out_of_memory_is_a_point_and_leaves_no_headline(sources: Sources) -> None:
    def prefill(tokens: torch.Tensor) -> None:
        if tokens.shape[1] >= 32:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    metrics = measure(fake(prefill=prefill), sources)
    points = [m.status for m in metrics if m.name == "peak_allocated_bytes" and m.at["mode"] == "prefill"]
    assert points == ["ok", "oom"]
    assert (metrics[0].name, metrics[0].value, metrics[0].status) == (MEMORY.info.main_metric, None, "oom")


@pytest.mark.parametrize("scale", ["smoke", "small", "paper"])
def test_every_scale_is_valid(scale: str, sources: Sources) -> None:
    assert MEMORY.identify(MEMORY.info.scales[scale].settings, sources).source == "generated"

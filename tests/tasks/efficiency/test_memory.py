"""Tests of tasks/efficiency/memory.py."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from hedgebench.adapters.base import Adapter, ModelShape, Value
from hedgebench.results.record import Metric
from hedgebench.tasks.base import Sources, Task
from hedgebench.tasks.efficiency.memory import MEMORY

pytestmark = pytest.mark.usefixtures("brief_collections")

SETTINGS: dict[str, Value] = {"seq_lens": (16, 32, 64), "batch_size": 2}
FLOAT = 4


def fake(**methods: Callable[..., Any]) -> Adapter:
    """An adapter that allocates n x n floats in prefill, twice that in training, and holds 10 bytes per token."""
    greedy: dict[str, Callable[..., Any]] = {
        "prefill": lambda tokens: (torch.zeros(tokens.shape[1], tokens.shape[1]), None),
        "training_step": lambda tokens, targets: torch.zeros(2, tokens.shape[1], tokens.shape[1]),
        "state_bytes": lambda batch_size, seq_len: 10 * batch_size * seq_len,
    }
    return cast(Adapter, SimpleNamespace(device=torch.device("cpu"), shape=ModelShape(4096, 256), **(greedy | methods)))


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
    def prefill(tokens: torch.Tensor) -> tuple[None, None]:
        if tokens.shape[1] >= 32:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return None, None

    metrics = measure(fake(prefill=prefill), sources)
    points = [m.status for m in metrics if m.name == "peak_allocated_bytes" and m.at["mode"] == "prefill"]
    assert points == ["ok", "oom"]
    assert (metrics[0].name, metrics[0].value, metrics[0].status) == (MEMORY.info.main_metric, None, "oom")


def test_growth_has_an_exponent(sources: Sources) -> None:
    found = {m.at["of"]: m.value for m in measure(fake(), sources) if m.name == "memory_exponent"}
    assert found == {"prefill": pytest.approx(2), "train": pytest.approx(2), "state": pytest.approx(1)}


def test_activations_of_a_training_step_are_what_autograd_keeps(sources: Sources) -> None:
    weight = torch.nn.Parameter(torch.ones(8, 8))

    def training_step(tokens: torch.Tensor, targets: torch.Tensor) -> float:
        x = torch.ones(tokens.shape[1], 8)
        torch.autograd.backward((x @ weight).relu().sum())
        return 0.0

    metrics = measure(fake(training_step=training_step), sources, modes="train")
    found = {m.at["seq_len"]: m.value for m in metrics if m.name == "activation_bytes"}
    assert found == {n: 2 * n * 8 * FLOAT for n in (16, 32, 64)}  # the inputs, and what the ReLU gave


def test_the_process_had_at_least_what_the_call_took(sources: Sources) -> None:
    held = {"prefill": lambda tokens: (torch.ones(1 << 24), None)}
    metrics = measure(fake(**held), sources, modes="prefill", seq_lens=(16,))
    (resident,) = (m for m in metrics if m.name == "peak_resident_bytes")
    assert (resident.value or 0) > (1 << 24) * FLOAT


def test_the_largest_batch_under_a_limit_is_what_fits_into_it(sources: Sources) -> None:
    """Rows are larger than the 64 MiB that glibc keeps free at the end of its heap, which come on top of the limit."""
    row = 3 << 23  # floats: 96 MiB

    def prefill(tokens: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.ones(len(tokens), row), None

    settings = {"modes": "prefill", "seq_lens": (16,), "largest_batch": "prefill", "memory_limit_mb": 600}
    metrics = {m.name: m for m in measure(fake(prefill=prefill), sources, **settings, batch_size=1)}
    assert 4 <= (metrics["prefill_largest_batch"].value or 0) <= 6
    assert metrics["peak_allocated_bytes"].value == row * FLOAT


@pytest.mark.parametrize("scale", ["smoke", "small", "paper"])
def test_every_scale_is_valid(scale: str, sources: Sources) -> None:
    assert MEMORY.identify(MEMORY.info.scales[scale].settings, sources).source == "generated"

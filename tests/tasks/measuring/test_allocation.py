"""Tests of tasks/measuring/allocation.py."""

from __future__ import annotations

import resource

import pytest
import torch

from hedgebench.tasks.measuring.allocation import memory_limit, peak_memory, peak_resident_bytes, saved_bytes
from hedgebench.tasks.measuring.failures import failure_status

CPU = torch.device("cpu")
FLOAT = 4


def test_a_tensor_counts_its_bytes() -> None:
    peak = peak_memory(lambda: torch.zeros(1000), CPU)
    assert (peak.allocated_bytes, peak.reserved_bytes) == (1000 * FLOAT, None)


def test_views_and_what_lived_before_count_nothing() -> None:
    before = torch.zeros(1000)

    def call() -> None:
        before.view(10, 100).add_(1)
        _ = before[:500], before.t()

    assert peak_memory(call, CPU).allocated_bytes == 0


def test_freed_tensors_make_room() -> None:
    def one_after_another() -> None:
        for _ in range(5):
            torch.zeros(1000)

    def all_at_once() -> None:
        _ = [torch.zeros(1000) for _ in range(5)]

    assert peak_memory(one_after_another, CPU).allocated_bytes == 1000 * FLOAT
    assert peak_memory(all_at_once, CPU).allocated_bytes == 5 * 1000 * FLOAT


@pytest.mark.parametrize("n", [16, 64])
def test_attention_weights_are_seen(n: int) -> None:
    q, k, v = torch.randn(3, n, 8)
    peak = peak_memory(lambda: torch.softmax(q @ k.T, dim=-1) @ v, CPU)
    assert peak.allocated_bytes == 2 * n * n * FLOAT


def test_what_backward_saves_and_makes_is_seen() -> None:
    weight, x = torch.randn(100, 100, requires_grad=True), torch.randn(50, 100)

    def step() -> None:
        torch.autograd.backward((x @ weight).exp().sum())
        weight.grad = None

    saved_and_gradients = 50 * 100 * FLOAT + 100 * 100 * FLOAT
    assert peak_memory(step, CPU).allocated_bytes >= saved_and_gradients


def test_a_limit_refuses_what_goes_beyond_it_and_ends_with_its_block() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with memory_limit(100 * 2**20, CPU):
        torch.ones(10 * 2**20)
        with pytest.raises(RuntimeError) as refused:
            torch.ones(60 * 2**20)
    assert failure_status(refused.value) == "oom"
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    torch.ones(60 * 2**20)


def test_what_is_kept_for_the_backward_pass_is_counted_once_and_without_parameters() -> None:
    weight = torch.nn.Parameter(torch.ones(16, 16))

    def step() -> None:
        x = torch.ones(32, 16)
        torch.autograd.backward((x @ weight.t() + x.view(32, 16) @ weight).sum())

    assert saved_bytes(step) == 32 * 16 * 4


def test_the_process_knows_its_own_peak() -> None:
    before = peak_resident_bytes()
    torch.ones(1 << 25).sum()
    after = peak_resident_bytes()
    assert before is not None
    assert after is not None
    assert after >= before
    assert after >= (1 << 25) * 4

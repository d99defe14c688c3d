"""Tests of tasks/allocation.py."""

from __future__ import annotations

import pytest
import torch

from hedgebench.tasks.allocation import peak_memory

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

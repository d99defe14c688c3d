"""Tests of kernels/linear/memory.py."""

import torch

from hedgebench.kernels.linear.memory import FRESH, Memory


def test_a_name_and_a_size_are_the_same_tensor_again() -> None:
    memory = Memory(torch.zeros(1, dtype=torch.float64))
    first = memory("rows", 2, 3)
    assert first is not None
    assert (first.dtype, first.tolist()) == (torch.float64, [[1.0] * 3] * 2)
    assert memory("rows", 2, 3) is first
    assert memory("rows", 2, 4) is not first
    assert memory("values", 2, 3) is not first


def test_what_lasts_or_is_followed_by_autograd_is_made_anew() -> None:
    assert FRESH("rows", 2, 3) is None
    assert not FRESH
    assert Memory(torch.zeros(1), lasting=("sums",))("sums", 2) is None


def test_parts_are_views_of_the_tensor_of_their_name() -> None:
    memory = Memory(torch.zeros(1))
    whole, columns, last = memory.parts("rows", 2, 3)
    assert memory("rows", 2, 3) is whole
    columns.zero_()
    assert whole.tolist() == [[0.0, 0.0, 1.0]] * 2
    assert last.shape == (2, 1)
    assert memory.parts("rows", 2, 3)[1] is columns


def test_a_lent_tensor_takes_the_results_of_its_name() -> None:
    memory, lent = Memory(torch.zeros(1)), torch.zeros(2, 3)
    memory.lend("key_weights", lent)
    assert memory("key_weights", 2, 3) is lent

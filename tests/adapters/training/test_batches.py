"""Batches of rows of like length: the same rows and the same loss with less padding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from hedgebench.adapters.base import IGNORED, Examples
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.precision import Precision
from hedgebench.adapters.scratch.transformer import Transformer
from hedgebench.adapters.training.loop import batch_rows, batch_rows_of_like_length, evaluate_loss
from hedgebench.adapters.training.objective import batch_of
from hedgebench.adapters.training.settings import TrainSettings

Build = Callable[..., ModelAdapter[Transformer]]

CPU = Precision(torch.device("cpu"), torch.float32)
LENGTHS = np.random.default_rng(1).integers(4, 10, 10)


def padded() -> Examples:
    """Ten rows of 4 to 9 tokens, and no target where there is no token."""
    inputs, targets = np.random.default_rng(0).integers(0, 11, (2, 10, 9), dtype=np.int32)
    mask = np.arange(9) < LENGTHS[:, None]
    return Examples(inputs, np.where(mask, targets, IGNORED), mask)


def test_batches_of_like_length_hold_the_rows_of_their_pool_with_far_less_padding() -> None:
    lengths, batch, pool = np.random.default_rng(0).integers(4, 65, 1000), 8, 16
    plain = [batch_rows(1000, step, batch, 0) for step in range(2 * pool)]
    alike = [batch_rows_of_like_length(lengths, step, batch, pool, 0) for step in range(2 * pool)]
    for start in (0, pool):
        rows, expected = (np.concatenate(part[start : start + pool]) for part in (alike, plain))
        assert sorted(rows) == sorted(expected)
    real = sum(lengths[rows].sum() for rows in alike)
    padded = {name: batch * sum(lengths[rows].max() for rows in part) for name, part in (("a", alike), ("p", plain))}
    assert real / padded["a"] > 0.9 > 0.7 > real / padded["p"]
    widths = [lengths[rows].max() for rows in alike[:pool]]
    assert widths != sorted(widths)  # short texts do not come first


def test_a_training_batch_is_as_wide_as_its_longest_row() -> None:
    shortest = LENGTHS.argsort()[:2]
    inputs, mask, targets = batch_of(padded(), shortest, CPU.device)
    assert inputs.shape[1] == LENGTHS[shortest].max() < 9
    assert targets.shape == inputs.shape
    assert mask is None or mask.shape == inputs.shape


def test_validation_batches_of_like_length_are_no_wider_than_need_be_and_give_the_same_loss(build: Build) -> None:
    model, widths = build().model, list[int]()
    model.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[1]))
    settings = (TrainSettings(steps=1, batch_size=2, lr=0.1, eval_batch_size=2, length_pool=pool) for pool in (0, 4))
    plain, alike = (evaluate_loss(model, padded(), each, CPU) for each in settings)
    assert alike == pytest.approx(plain, rel=1e-5)
    assert widths[5:] == sorted(LENGTHS)[1::2]
    assert sum(widths[5:]) < sum(widths[:5])

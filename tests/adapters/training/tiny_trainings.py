"""A training of seconds, and an interruption of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hedgebench.adapters.base import IGNORED, Examples
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.precision import Precision
from hedgebench.adapters.scratch.transformer import Transformer
from hedgebench.adapters.training.settings import TrainSettings

Build = Callable[..., ModelAdapter[Transformer]]

CPU = Precision(torch.device("cpu"), torch.float32)
QUICK = {"steps": 12, "batch_size": 4, "lr": 0.01, "eval_every": 3, "checkpoint_every_s": 0.0}


def settings_of(**values: float) -> TrainSettings:
    return TrainSettings.of({**QUICK, **values})


def examples(rows: int = 10, seed: int = 0, *, padded: bool = False) -> Examples:
    generator = np.random.default_rng(seed)
    inputs, targets = generator.integers(0, 11, (2, rows, 9), dtype=np.int32)
    targets[:, ::3] = IGNORED
    mask = np.arange(9) < generator.integers(4, 10, (rows, 1)) if padded else None
    return Examples(inputs, targets, mask)


def weights_of(adapter: ModelAdapter[Transformer]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in adapter.model.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


class Interrupted(Exception):
    pass


def interrupt_after(step: int) -> Callable[[int, int, float], None]:
    def progress(done: int, steps: int, loss: float) -> None:
        if done == step:
            raise Interrupted

    return progress

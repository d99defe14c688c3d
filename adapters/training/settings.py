"""Settings of the training stages, without torch: a plan checks them before anything runs."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, cast

from ...results.names import UsageError
from ..base import Settings

S = TypeVar("S")

_AT_LEAST_ONE = ("steps", "batch_size", "accumulate", "eval_rows", "eval_batch_size", "rank", "alpha")
_LARGEST = {
    "warmup": (1.0, "from 0 to 1, a share of the steps"),
    **dict.fromkeys(("beta1", "beta2", "dropout"), (math.nextafter(1.0, 0.0), "from 0 to below 1")),
}
"""The largest values of numbers that are shares, and their ranges in words."""


@dataclass(frozen=True)
class TrainSettings:
    """Hyper-parameters of one training stage.

    Attributes:
        steps: Optimiser steps, unless `epochs` is above 0.
        epochs: Passes over the training rows; 0 to train for `steps`.
        batch_size: Rows per optimiser step.
        lr: Peak learning rate.
        warmup: Share of the steps over which the rate rises linearly.
        final_lr: Rate at the last step, as a share of the peak.
        weight_decay: Weight decay of matrices and embeddings; feature maps and short convolutions are exempt.
        beta1: Decay of AdamW's first moment.
        beta2: Decay of AdamW's second moment.
        clip_norm: Largest gradient norm; 0 for no clipping.
        accumulate: Number of parts that each batch is split into, to save memory.
        eval_every: Steps between validations; 0 for one after each epoch, or one at the end without epochs.
        validate_first: Validate before the first step too; weights that training does not improve are kept.
        keep_last: End with the last weights, whatever their validation loss: a classifier that is fine-tuned grows more
            certain, and its loss rises, while it still gets better at the task.
        patience: Validations without improvement before training stops; 0 to never stop early.
        target_loss: Validation loss in nats per target below which training stops; 0 to never stop early.
        eval_rows: Largest number of validation rows.
        eval_batch_size: Rows per validation batch.
        length_pool: Number of shuffled batches whose rows are sorted by length, so that each batch holds rows of
            similar length; 0 for batches in shuffled order.
        checkpoint_every_s: Seconds between checkpoints.
    """

    steps: int
    batch_size: int
    lr: float
    epochs: float = 0.0
    warmup: float = 0.1
    final_lr: float = 0.1
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip_norm: float = 1.0
    accumulate: int = 1
    eval_every: int = 0
    validate_first: bool = False
    keep_last: bool = False
    patience: int = 0
    target_loss: float = 0.0
    eval_rows: int = 512
    eval_batch_size: int = 32
    length_pool: int = 0
    checkpoint_every_s: float = 30.0

    def for_rows(self, rows: int) -> TrainSettings:
        """The settings with `steps` and `eval_every` computed from `epochs` and the number of training rows."""
        if not self.epochs:
            return self
        per_epoch = math.ceil(rows / self.batch_size)
        steps = max(1, math.ceil(self.epochs * rows / self.batch_size))
        return replace(self, steps=steps, eval_every=self.eval_every or per_epoch)

    @classmethod
    def of(cls, values: Settings, stage: str = "train") -> TrainSettings:
        """Settings of a stage from plain values; keys of other settings are ignored.

        Raises:
            UsageError: A number outside its range.
        """
        settings = _settings(cls, values, stage)
        if settings.batch_size % settings.accumulate:
            raise UsageError(
                f"{stage}.accumulate is {settings.accumulate}; it must divide {stage}.batch_size {settings.batch_size}"
            )
        return settings


@dataclass(frozen=True)
class DistillSettings:
    """The loss of distillation, and how many layers it trains at a time.

    Attributes:
        attention_factor: Factor on the cross-entropy of attention weights.
        output_factor: Factor on the mean squared error of attention outputs; 1000 in LoLCATs.
        block_layers: Layers distilled at a time while the rest of the model stays in host memory; 0 for all at once.
    """

    attention_factor: float = 1.0
    output_factor: float = 0.0
    block_layers: int = 0

    @classmethod
    def of(cls, values: Settings) -> DistillSettings:
        """Settings from plain values; keys of other settings are ignored.

        Raises:
            UsageError: A negative number, or both factors 0.
        """
        chosen = _settings(cls, values, "distill")
        if not chosen.attention_factor and not chosen.output_factor:
            raise UsageError("distill.attention_factor and distill.output_factor are both 0; allowed: one above 0")
        return chosen


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters; the defaults are the paper's (appendix B.5).

    Attributes:
        rank: Rank of each update.
        alpha: Updates are scaled by `alpha / rank`.
        dropout: Dropout on the input of each update.
        train_maps: Train feature maps too; otherwise a map that is not distilled is never trained.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    train_maps: bool = True

    @classmethod
    def of(cls, values: Settings) -> LoraSettings:
        """Settings from plain values; keys of other settings are ignored.

        Raises:
            UsageError: A rank or an alpha below 1, or a dropout below 0, or of 1 or more.
        """
        return _settings(cls, values, "lora")


def _settings(kind: type[S], values: Settings, stage: str) -> S:
    """The settings of a class from the values of its fields; other values are ignored.

    Raises:
        UsageError: A value outside its range.
    """
    own = {field.name: values[field.name] for field in fields(cast(Any, kind)) if field.name in values}
    for name, value in own.items():
        smallest = 1 if name in _AT_LEAST_ONE else 0
        largest, allowed = _LARGEST.get(
            name, (sys.float_info.max, f"{smallest} or more" + ", finite" * isinstance(value, float))
        )
        if not smallest <= cast(float, value) <= largest:
            raise UsageError(f"{stage}.{name} is {value}; allowed: {allowed}")
    return kind(**own)

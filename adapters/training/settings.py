"""Hyper-parameters of training, without torch: a plan names them before anything runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

from ..base import Settings

_AT_LEAST_ONE = ("steps", "batch_size", "accumulate", "eval_rows", "eval_batch_size")


@dataclass(frozen=True)
class TrainSettings:
    """Hyper-parameters of one training stage.

    Attributes:
        steps: Optimiser steps, unless `epochs` says how many.
        epochs: Passes over the training rows; 0 to go by `steps`.
        batch_size: Rows per optimiser step.
        lr: Peak learning rate.
        warmup: Share of the steps over which the rate rises linearly.
        final_lr: Rate at the last step, as a share of the peak.
        weight_decay: AdamW's, on matrices and embeddings; feature maps and short convolutions are exempt.
        beta1: AdamW's decay of the first moment.
        beta2: AdamW's decay of the second moment.
        clip_norm: Largest gradient norm; 0 for no clipping.
        accumulate: Parts each batch is split into, to save memory.
        eval_every: Steps between validations; 0 for one after each epoch, or at the end where there are no epochs.
        validate_first: Validate before the first step too, so that weights which no training improves on are kept.
        patience: Validations without improvement before training stops; 0 to never stop early.
        target_loss: Validation loss in nats per target at which training stops, having learned enough; 0 to never.
        eval_rows: Most validation rows used.
        eval_batch_size: Rows per validation batch.
        length_pool: Batches hold rows of like length, out of the shuffled rows of so many batches at a time; 0 for
            batches as the shuffle gives them.
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
    patience: int = 0
    target_loss: float = 0.0
    eval_rows: int = 512
    eval_batch_size: int = 32
    length_pool: int = 0
    checkpoint_every_s: float = 30.0

    def for_rows(self, rows: int) -> TrainSettings:
        """The settings with `steps` and `eval_every` worked out for so many training rows."""
        if not self.epochs:
            return self
        per_epoch = math.ceil(rows / self.batch_size)
        steps = max(1, math.ceil(self.epochs * rows / self.batch_size))
        return replace(self, steps=steps, eval_every=self.eval_every or per_epoch)

    @classmethod
    def of(cls, values: Settings, stage: str = "train") -> TrainSettings:
        """Settings of a stage from plain values; keys that are no training setting are left to others.

        Raises:
            ValueError: A number outside its range.
        """
        settings = cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})  # type: ignore[arg-type]
        for field in fields(cls):
            smallest = 1 if field.name in _AT_LEAST_ONE else 0
            if not getattr(settings, field.name) >= smallest:
                raise ValueError(
                    f"{stage}.{field.name} is {getattr(settings, field.name)}; allowed: {smallest} or more"
                )
        if settings.batch_size % settings.accumulate:
            raise ValueError(
                f"{stage}.accumulate is {settings.accumulate}; it must divide {stage}.batch_size {settings.batch_size}"
            )
        return settings

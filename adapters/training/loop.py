"""The training loop of every model and task.

It has AdamW, linear warm-up and cosine decay, gradient clipping and accumulation, validation with early stopping, and
checkpoints. A run that resumes from a checkpoint on the same machine gives the same bits as one without a break.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...results.record import CurvePoint
from ...results.run_folder import RunFolder
from ..attention.core import AttentionCore
from ..attention.position import ShortConvolution
from ..base import Examples
from ..precision import Precision
from .checkpoint import DamagedCheckpointError, load_checkpoint, put_weights, save_checkpoint, trained_weights
from .objective import CROSS_ENTROPY, Objective
from .settings import TrainSettings
from .sharing import Share, shared

Progress = Callable[[int, int, float], None]
"""Called with the steps taken, the number of steps, and the latest training loss."""


@dataclass(frozen=True)
class History:
    """The course of a training run.

    Attributes:
        curves: Training and validation losses per target (in nats for cross-entropy), and the parts of the loss.
        steps: Optimiser steps taken.
        kept_step: Step whose weights were kept.
        kept_loss: Validation loss at `kept_step`; NaN without validation data.
        kept_lowest: Whether these are the weights of the lowest validation loss, not just the last ones.
        stopped_early: Whether training ended before its last step, because the validation loss stopped improving or
            fell below the target loss.
        notes: Checkpoints that could not be read or written.
    """

    curves: tuple[CurvePoint, ...]
    steps: int
    kept_step: int
    kept_loss: float
    kept_lowest: bool
    stopped_early: bool
    notes: tuple[str, ...] = ()


def train(
    model: nn.Module,
    examples: Examples,
    validation: Examples | None,
    settings: TrainSettings,
    *,
    seed: int,
    precision: Precision,
    objective: Objective = CROSS_ENTROPY,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    devices: int = 1,
) -> History:
    """Trains `model` in place; it ends with the weights of the lowest validation loss, or with `keep_last` the last.

    Args:
        model: Its parameters that require gradients are trained.
        examples: Training examples.
        validation: Validation examples; without them the last weights are kept.
        settings: Hyper-parameters.
        seed: Seed of the data order and of dropout.
        precision: Device and autocast type.
        objective: The loss to minimise.
        checkpoint: File to write checkpoints to, and to resume from if it exists. A damaged one is set aside, and
            training starts over; one that cannot be written is left out. The history has a note of both.
        progress: Called after every step.
        devices: Devices of this machine that share every batch; on the CPU, processes.

    Raises:
        FloatingPointError: The training loss is not finite.
        UnsupportedError: There are fewer devices, or the model cannot be copied to others.
        ValueError: There are no training examples, or no validation row has a target.
    """
    if not len(examples):
        raise ValueError("there are no training examples")
    settings = settings.for_rows(len(examples))
    run = _Run(model, examples, validation, settings, objective, seed, precision)
    if checkpoint is not None and checkpoint.exists():
        try:
            run.restore(checkpoint)
        except DamagedCheckpointError as error:
            aside = RunFolder(checkpoint.parent).set_aside(checkpoint)
            run = _Run(model, examples, validation, settings, objective, seed, precision)
            run.notes.append(f"training started over: {error}; set aside as {aside.name}")
    model.train()
    if run.step == 0 and settings.validate_first:
        run.validate()
    with shared(run, devices if run.is_under_way else 1):
        saved_at = time.monotonic()
        while run.is_under_way:
            loss = run.advance()
            if progress is not None:
                progress(run.step, settings.steps, loss)
            if checkpoint is not None and time.monotonic() - saved_at > settings.checkpoint_every_s:
                run.save(checkpoint)
                saved_at = time.monotonic()
    if checkpoint is not None:
        run.save(checkpoint)
    return run.finish()


_SAVED = ("step", "best_loss", "best_step", "worse", "best_weights")
"""Attributes of a run that its checkpoint holds as they are."""
_NOT_WRITTEN = "checkpoints could not be written"


@dataclass
class _Run:
    """The state of one training run: all that a checkpoint holds."""

    model: nn.Module
    examples: Examples
    validation: Examples | None
    settings: TrainSettings
    objective: Objective
    seed: int
    precision: Precision
    step: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    worse: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    curves: list[CurvePoint] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    share: Share | None = None

    def __post_init__(self) -> None:
        self.lengths = row_lengths(self.examples) if self.settings.length_pool else None
        self.optimizer = make_optimizer(self.model, self.settings)
        torch.manual_seed(self.seed)

    def for_others(self) -> _Run:
        """A copy for other processes, which take steps and do not validate; its model is the same object."""
        other = copy.copy(self)
        other.validation, other.best_weights, other.curves = None, {}, []
        return other

    @property
    def is_under_way(self) -> bool:
        return self.step < self.settings.steps and not self.stopped_early

    @property
    def stopped_early(self) -> bool:
        no_better = bool(self.settings.patience) and self.worse >= self.settings.patience
        return no_better or self.best_loss < self.settings.target_loss

    def advance(self) -> float:
        """Takes one optimiser step, and validates if a validation is due; returns the loss per target."""
        rate = learning_rate(self.step, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss, details = self._accumulate_gradients(self._rows())
        if not math.isfinite(loss):
            raise FloatingPointError(f"training loss is {loss} at step {self.step} (learning rate {rate:g})")
        if self.settings.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.step == 1 or self.step % max(1, self.settings.steps // 100) == 0:
            self._add_curves("train", loss, details)
        every = self.settings.eval_every or self.settings.steps
        if self.step % every == 0 or self.step == self.settings.steps:
            self.validate()
        return loss

    def _rows(self) -> np.ndarray:
        size, pool = self.settings.batch_size, self.settings.length_pool
        if self.lengths is None:
            return batch_rows(len(self.examples), self.step, size, self.seed)
        return batch_rows_of_like_length(self.lengths, self.step, size, pool, self.seed)

    def _add_curves(self, split: str, loss: float, details: Mapping[str, float]) -> None:
        named = {"loss": loss, **details}
        self.curves += [CurvePoint(self.step, split, name, value) for name, value in named.items()]

    def _accumulate_gradients(self, rows: np.ndarray) -> tuple[float, Mapping[str, float]]:
        if self.share is not None:
            return self.share.accumulate_gradients(rows, self.settings.accumulate)
        counted = max(1, self.objective.count(self.examples, rows))
        total = 0.0
        for part in np.array_split(rows, self.settings.accumulate):
            with self.precision.autocast():
                loss = self.objective.loss(self.model, self.examples, part, self.precision.device) / counted
            torch.autograd.backward(loss)
            total += float(loss.detach())
        return total, self.objective.details()

    def validate(self) -> None:
        """Measures the validation loss, if there are examples, and keeps the weights if it is the lowest so far."""
        if self.validation is None:
            return
        loss = evaluate_loss(self.model, self.validation, self.settings, self.precision, self.objective)
        self._add_curves("validation", loss, self.objective.details())
        if loss < self.best_loss:
            self.best_loss, self.best_step, self.worse = loss, self.step, 0
            if not self.settings.keep_last:
                self.best_weights = {name: value.clone() for name, value in trained_weights(self.model).items()}
        else:
            self.worse += 1

    def finish(self) -> History:
        """Restores the best weights, if they are to be kept; returns the course of the run."""
        kept_loss, kept_step = next((p.value for p in reversed(self.curves) if _is_validation(p)), math.nan), self.step
        if self.best_weights:
            put_weights(self.model, self.best_weights)
            kept_loss, kept_step = self.best_loss, self.best_step
        early = self.stopped_early and self.step < self.settings.steps
        return History(
            tuple(self.curves), self.step, kept_step, kept_loss, bool(self.best_weights), early, tuple(self.notes)
        )

    def save(self, path: Path) -> None:
        """Writes everything that later steps depend on; if the disk refuses it, training goes on without."""
        curves = [(point.step, point.split, point.name, point.value) for point in self.curves]
        state = {name: getattr(self, name) for name in _SAVED}
        try:
            save_checkpoint(path, self.model, self.optimizer, {**state, "curves": curves})
        except OSError as error:
            if not any(note.startswith(_NOT_WRITTEN) for note in self.notes):
                self.notes.append(f"{_NOT_WRITTEN} from step {self.step}: {error.strerror or error}")

    def restore(self, path: Path) -> None:
        """Restores everything that `path` holds.

        Raises:
            DamagedCheckpointError: It is damaged, or of another model.
        """
        state = load_checkpoint(path, self.model, self.optimizer, needed=(*_SAVED, "curves"))
        for name in _SAVED:
            setattr(self, name, state[name])
        self.curves = [CurvePoint(*point) for point in state["curves"]]


def _is_validation(point: CurvePoint) -> bool:
    return point.split == "validation" and point.name == "loss"


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW with weight decay on all parameters of two or more dimensions, except feature maps and convolutions.

    Feature maps and short convolutions start at the identity; decay would draw them towards zero, where attention is
    uniform. Linear layers in attention cores, which are projections of gates, do have weight decay.

    It is torch's fused form: on 22 million parameters of MiniLM's shapes a step takes 28 ms instead of 123 ms (float32,
    CPU time of one thread, mean of 5, torch 2.13).
    """
    exempt_parts = (part for part in model.modules() if isinstance(part, AttentionCore | ShortConvolution))
    exempt = {id(p) for part in exempt_parts for p in part.parameters()}
    exempt -= {id(part.weight) for part in model.modules() if isinstance(part, nn.Linear)}
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim > 1 and id(p) not in exempt]
    others = [p for p in trained if p.ndim < 2 or id(p) in exempt]
    decayed = {"params": matrices, "weight_decay": settings.weight_decay}
    groups = [decayed, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.beta1, settings.beta2), fused=True)


def learning_rate(step: int, settings: TrainSettings) -> float:
    """The learning rate at `step`, from 0: linear warm-up to `lr`, then half a cosine down to `final_lr * lr`."""
    warmup = max(1, round(settings.warmup * settings.steps))
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    done = (step - warmup + 1) / max(1, settings.steps - warmup)
    floor = settings.final_lr * settings.lr
    return floor + (settings.lr - floor) * (1 + math.cos(math.pi * min(1.0, done))) / 2


def batch_rows(rows: int, step: int, batch_size: int, seed: int) -> np.ndarray:
    """Rows of the batch at `step`: each epoch has its own permutation, and a batch may span two epochs.

    The rows depend only on the arguments, so a resumed run sees the same batches.
    """
    wanted = np.arange(step * batch_size, (step + 1) * batch_size)
    return np.array([_permutation(rows, int(i // rows), seed)[i % rows] for i in wanted])


@lru_cache(maxsize=2)
def _permutation(rows: int, epoch: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(rows)


def row_lengths(examples: Examples) -> np.ndarray:
    """Number of real tokens of each row; with two sequences in a row, that of the longer one."""
    if examples.attention_mask is None:
        return np.full(len(examples), examples.inputs.shape[-1])
    lengths: np.ndarray = examples.attention_mask.sum(-1).reshape(len(examples), -1).max(1)
    return lengths


def batch_rows_of_like_length(lengths: np.ndarray, step: int, batch_size: int, pool: int, seed: int) -> np.ndarray:
    """Rows of the batch at `step`, which have similar lengths, so that there is little padding.

    The rows of `batch_rows` for `pool` steps are sorted by length and split into batches, which are shuffled.
    """
    first = step // pool * pool
    pooled = np.concatenate([batch_rows(len(lengths), first + i, batch_size, seed) for i in range(pool)])
    batches = pooled[np.argsort(lengths[pooled], kind="stable")].reshape(pool, batch_size)
    chosen: np.ndarray = batches[np.random.default_rng([seed, first, pool]).permutation(pool)[step - first]]
    return chosen


@torch.no_grad()
def evaluate_loss(
    model: nn.Module,
    examples: Examples,
    settings: TrainSettings,
    precision: Precision,
    objective: Objective = CROSS_ENTROPY,
) -> float:
    """Mean loss per target over the first `eval_rows` rows; with a `length_pool`, batches have rows of similar length.

    Raises:
        ValueError: No target of these rows has a loss.
    """
    was_training = model.training
    model.eval()
    total, counted = 0.0, 0
    chosen = np.arange(min(len(examples), settings.eval_rows))
    if settings.length_pool:
        chosen = np.argsort(row_lengths(examples)[chosen], kind="stable")
    for start in range(0, len(chosen), settings.eval_batch_size):
        rows = chosen[start : start + settings.eval_batch_size]
        with precision.autocast():
            total += float(objective.loss(model, examples, rows, precision.device))
        counted += objective.count(examples, rows)
    model.train(was_training)
    if not counted:
        raise ValueError(f"the first {settings.eval_rows} validation rows have no target to take a loss on")
    return total / counted

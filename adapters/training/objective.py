"""Training objectives: the summed loss over some rows of the examples, and the number of targets in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from ..base import IGNORED, Examples, ModelShape
from .augmentation import vary


@runtime_checkable
class Objective(Protocol):
    """A loss to minimise."""

    def count(self, examples: Examples, rows: NDArray[Any]) -> int:
        """Number of targets in these rows."""
        ...

    def loss(self, model: nn.Module, examples: Examples, rows: NDArray[Any], device: torch.device) -> Float[Tensor, ""]:
        """The loss summed over those targets."""
        ...

    def details(self) -> Mapping[str, float]:
        """Means of the parts of the loss over the batches since the last call, by name; empty if it has no parts."""
        ...


@dataclass(frozen=True)
class TargetLoss:
    """Cross-entropy in nats over tokens or classes, or the squared error of a regression.

    Targets that are `IGNORED`, or NaN for a regression, have no loss.

    Attributes:
        is_regression: Whether targets are real numbers, one for each input or for each position.
    """

    is_regression: bool = False

    def count(self, examples: Examples, rows: NDArray[Any]) -> int:
        """Number of targets that have a loss."""
        targets = examples.targets[rows]
        return int((~np.isnan(targets) if self.is_regression else targets != IGNORED).sum())

    def loss(self, model: nn.Module, examples: Examples, rows: NDArray[Any], device: torch.device) -> Float[Tensor, ""]:
        """The summed loss of the model's outputs."""
        inputs, mask, targets = batch_of(examples, rows, device, varied=model.training)
        return self.of_outputs(model(inputs, mask), targets)

    def of_outputs(self, outputs: Tensor, targets: Tensor) -> Float[Tensor, ""]:
        """The summed loss of logits `[.. classes]`, or of values `[.. 1]`, to targets `[..]`."""
        outputs = outputs.float()
        if not self.is_regression:
            return F.cross_entropy(outputs.flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="sum")
        values, wanted = outputs[..., 0], targets.float()
        return F.mse_loss(values, torch.where(wanted.isnan(), values.detach(), wanted), reduction="sum")

    def details(self) -> Mapping[str, float]:
        """The loss has no parts."""
        return {}


CROSS_ENTROPY = TargetLoss()


def objective_for(shape: ModelShape) -> TargetLoss:
    """The loss of a task: squared error for a regression, else cross-entropy."""
    return TargetLoss(shape.is_regression)


def batch_of(
    examples: Examples, rows: NDArray[Any], device: torch.device, *, varied: bool = False
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Inputs, attention mask and targets of some rows, on `device`.

    Columns on the right without a token or a target in any row are cut off; a mask without padding becomes None.
    Stored pixels are normalised and, if `varied`, mirrored and moved at random, as training does.
    """
    inputs, targets = examples.inputs[rows], examples.targets[rows]
    mask = None if examples.attention_mask is None else examples.attention_mask[rows]
    if mask is not None:
        used = mask | (targets != IGNORED) if targets.ndim == 2 else mask
        columns = used.reshape(-1, used.shape[-1]).any(0)
        longest = max(1, int(np.flatnonzero(columns).max(initial=0)) + 1)
        inputs, mask = inputs[..., :longest], mask[..., :longest]
        targets = targets[:, :longest] if targets.ndim == 2 else targets
    tensors = (torch.as_tensor(array, device=device) for array in (inputs, targets))
    if examples.pixels is not None:
        pixels, wanted = tensors
        images = examples.pixels.normalised(pixels)
        return vary(images, examples.pixels) if varied else images, None, wanted.long()
    read, wanted = (tensor if tensor.is_floating_point() else tensor.long() for tensor in tensors)
    return read, None if mask is None or mask.all() else torch.as_tensor(mask, device=device), wanted

"""What training minimises: a loss over some rows of the examples, summed, and over how many targets it is taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from ..base import IGNORED, Examples, ModelShape


@runtime_checkable
class Objective(Protocol):
    """A loss."""

    def count(self, examples: Examples, rows: NDArray[Any]) -> int:
        """Targets that the loss of these rows is taken over."""
        ...

    def loss(self, model: nn.Module, examples: Examples, rows: NDArray[Any], device: torch.device) -> Float[Tensor, ""]:
        """The loss summed over those targets."""
        ...

    def details(self) -> Mapping[str, float]:
        """Means of parts of the loss over the batches since the last call, by name; empty when it has none."""
        ...


class CrossEntropy:
    """Cross-entropy in nats, over tokens or classes whose target is not `IGNORED`."""

    def count(self, examples: Examples, rows: NDArray[Any]) -> int:
        """Targets that are not `IGNORED`."""
        return int((examples.targets[rows] != IGNORED).sum())

    def loss(self, model: nn.Module, examples: Examples, rows: NDArray[Any], device: torch.device) -> Float[Tensor, ""]:
        """The summed cross-entropy."""
        inputs, mask, targets = batch_of(examples, rows, device)
        return self.of_logits(model(inputs, mask), targets)

    def of_logits(self, logits: Tensor, targets: Tensor) -> Float[Tensor, ""]:
        """The summed cross-entropy of logits `[.. classes]` to targets `[..]`."""
        flat = logits.float().flatten(0, -2)
        return F.cross_entropy(flat, targets.flatten(), ignore_index=IGNORED, reduction="sum")

    def details(self) -> Mapping[str, float]:
        """Nothing more than the loss."""
        return {}


CROSS_ENTROPY = CrossEntropy()


class SquaredError:
    """Squared error of a regression's one output, for each input or at each position; NaN is no target."""

    def count(self, examples: Examples, rows: NDArray[Any]) -> int:
        """Targets that are not NaN."""
        return int((~np.isnan(examples.targets[rows])).sum())

    def loss(self, model: nn.Module, examples: Examples, rows: NDArray[Any], device: torch.device) -> Float[Tensor, ""]:
        """The summed squared error."""
        inputs, mask, targets = batch_of(examples, rows, device)
        return self.of_logits(model(inputs, mask), targets)

    def of_logits(self, logits: Tensor, targets: Tensor) -> Float[Tensor, ""]:
        """The summed squared error of outputs `[.. 1]` to targets `[..]`."""
        outputs, wanted = logits.float()[..., 0], targets.float()
        return F.mse_loss(outputs, torch.where(wanted.isnan(), outputs.detach(), wanted), reduction="sum")

    def details(self) -> Mapping[str, float]:
        """Nothing more than the loss."""
        return {}


def objective_for(shape: ModelShape) -> CrossEntropy | SquaredError:
    """The loss of a task: squared error for a regression, else cross-entropy."""
    return SquaredError() if shape.is_regression else CROSS_ENTROPY


def batch_of(examples: Examples, rows: NDArray[Any], device: torch.device) -> tuple[Tensor, Tensor | None, Tensor]:
    """Inputs, attention mask and targets of some rows, on `device`.

    Columns on the right in which none of these rows has a token or a target are cut off; a mask of no padding is None.
    """
    inputs, targets = examples.inputs[rows], examples.targets[rows]
    mask = None if examples.attention_mask is None else examples.attention_mask[rows]
    if mask is not None:
        used = mask | (targets != IGNORED) if targets.ndim == 2 else mask
        columns = used.reshape(-1, used.shape[-1]).any(0)
        longest = max(1, int(np.flatnonzero(columns).max(initial=0)) + 1)
        inputs, mask = inputs[..., :longest], mask[..., :longest]
        targets = targets[:, :longest] if targets.ndim == 2 else targets
    tensor = torch.as_tensor(inputs, device=device)
    return (
        tensor if tensor.is_floating_point() else tensor.long(),
        None if mask is None or mask.all() else torch.as_tensor(mask, device=device),
        _as_targets(torch.as_tensor(targets, device=device)),
    )


def _as_targets(targets: Tensor) -> Tensor:
    return targets if targets.is_floating_point() else targets.long()

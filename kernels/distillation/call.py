"""One call of the distillation operator."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..triton.operator import Arguments
from .tiled_scores import FeatureGradients


@dataclass(frozen=True)
class DistillationCall(Arguments):
    """The inputs and options of the loss; leading axis l: batch and kv head together.

    Attributes:
        q: [l g n d], with the scale.
        k: [l m d].
        phi_q: [l g n f].
        phi_k: [l m f], masked.
        shares: [l n], a row's part in the mean: 1 / rows, or 0 for padding.
        padding: [l m], true where a key is hidden from all rows, or None.
        causal: this and the next three are those of `attention_distillation_loss`.
        with_gradients: compute the gradients of the features too.
        backend: "torch", or "triton" as a wish: log features that no common shift can hold are torch's.
    """

    DIFFERENTIABLE: ClassVar = ()

    q: Tensor
    k: Tensor
    phi_q: Tensor
    phi_k: Tensor
    shares: Tensor
    padding: Tensor | None
    causal: bool
    eps: float
    log_space: bool
    tile: int | None
    with_gradients: bool
    backend: str

    def heads(self, which: slice) -> "DistillationCall":
        """The call of some batch entries and kv heads."""
        names = ("q", "k", "phi_q", "phi_k", "shares", "padding")
        parts: dict[str, Any] = {name: getattr(self, name)[which] for name in names if getattr(self, name) is not None}
        return replace(self, **parts)

    def zero_gradients(self) -> FeatureGradients:
        """The zeros to which the gradients of the features are added."""
        heads, groups = self.phi_q.shape[:2]
        return FeatureGradients(
            torch.zeros_like(self.phi_q, memory_format=torch.contiguous_format),
            self.phi_k.new_zeros(heads, groups, *self.phi_k.shape[1:]),
        )

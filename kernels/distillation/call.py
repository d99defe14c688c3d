"""The arguments of the distillation operator, as one value."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..triton.operator import Arguments
from .tiled_scores import FeatureGradients


@dataclass(frozen=True)
class DistillationCall(Arguments):
    """The inputs and options of the loss; l is batch and kv head together, g the query heads of a kv head.

    Attributes:
        q: [l g n d], the teacher's queries times the scale.
        k: [l m d], the teacher's keys.
        phi_q: [l g n f], features of the student's queries, or their logarithms.
        phi_k: [l m f], features of the student's keys, or their logarithms; 0 or `EMPTY_LOG` where masked.
        shares: [l n], weight of a row in the mean: 1 / number of real rows, or 0 for padding.
        padding: [l m], true where a key is padding; None without padding.
        causal: an option of `attention_distillation_loss`, as are `eps`, `log_space` and `tile`.
        with_gradients: compute the gradients of the features too.
        backend: "torch" or "triton". Torch also runs calls whose log features no common shift can hold (`factored`).
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
        """The call for a part of the leading axis."""
        names = ("q", "k", "phi_q", "phi_k", "shares", "padding")
        parts: dict[str, Any] = {name: getattr(self, name)[which] for name in names if getattr(self, name) is not None}
        return replace(self, **parts)

    def zero_gradients(self) -> FeatureGradients:
        """Zeros, to which the gradients of the features are added."""
        heads, groups = self.phi_q.shape[:2]
        return FeatureGradients(
            torch.zeros_like(self.phi_q, memory_format=torch.contiguous_format),
            self.phi_k.new_zeros(heads, groups, *self.phi_k.shape[1:]),
        )

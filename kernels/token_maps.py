"""Feature maps as linear attention in chunks applies them: to some tokens at a time, and back to gradients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .learned_maps import hedgehog_features
from .scratch import Scratch


@runtime_checkable
class TokenMap(Protocol):
    """Gives the features of any run of tokens; a token's features depend on no other token."""

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """All tensors besides the vectors that gradients flow to."""
        ...

    def __call__(self, x: Float[Tensor, "b h c d"], tokens: slice) -> Float[Tensor, "b h c f"]:
        """Gives features, or their logarithms, of the vectors of these tokens; autograd may follow."""
        ...

    def write(self, x: Tensor, tokens: slice, out: Float[Tensor, "b h c f"], scratch: Scratch) -> None:
        """Writes to `out` what a call gives; autograd does not follow."""
        ...


@runtime_checkable
class ReversibleMap(TokenMap, Protocol):
    """A map that gives gradients without autograd, and with nothing kept of the way forward."""

    def gradients(
        self, x: Tensor, grad: Float[Tensor, "b h c f"], totals: Sequence[Tensor], scratch: Scratch
    ) -> Float[Tensor, "b h c d"]:
        """Gives the gradient of the vectors from that of their features, perhaps in scratch memory.

        Those of the parameters are added to `totals`.
        """
        ...


@dataclass(frozen=True)
class Given:
    """Features that are at hand."""

    parameters: tuple[Tensor, ...] = ()

    def __call__(self, x: Tensor, tokens: slice) -> Tensor:
        """Gives the features themselves."""
        del tokens
        return x

    def write(self, x: Tensor, tokens: slice, out: Tensor, scratch: Scratch) -> None:
        """Copies the features."""
        del tokens, scratch
        out.copy_(x)

    def gradients(self, x: Tensor, grad: Tensor, totals: Sequence[Tensor], scratch: Scratch) -> Tensor:
        """Gives the gradient itself."""
        del x, totals, scratch
        return grad


@dataclass(frozen=True)
class Mapped:
    """Any feature map; its gradients are left to autograd.

    Attributes:
        function: a feature map, or what takes and gives the same.
        parameters: all tensors besides the vectors that gradients flow to.
        positions: of the tokens, for maps that read them.
    """

    function: Callable[[Tensor, Tensor | None], Tensor]
    parameters: tuple[Tensor, ...] = ()
    positions: Int[Tensor, "b n"] | Int[Tensor, " n"] | None = None

    def __call__(self, x: Tensor, tokens: slice) -> Tensor:
        """Applies the map."""
        return self.function(x, None if self.positions is None else self.positions[..., tokens])

    def write(self, x: Tensor, tokens: slice, out: Tensor, scratch: Scratch) -> None:
        """Applies the map, then copies."""
        del scratch
        out.copy_(self(x, tokens))


@dataclass(frozen=True)
class SignedProjection:
    """Hedgehog's map `exp` in log space: log φ(x) = [y, -y] with y = Wx + b, W per head.

    Attributes:
        weight: [h d w].
        bias: [h w], or None.
        negate: without it, y alone.
    """

    weight: Float[Tensor, "h d w"]
    bias: Float[Tensor, "h w"] | None = None
    negate: bool = True

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """W, and b where there is one."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def __call__(self, x: Tensor, tokens: slice) -> Tensor:
        """Gives [y, -y]."""
        del tokens
        return hedgehog_features(x, self.weight, self.bias, map="exp", negate=self.negate)

    def write(self, x: Tensor, tokens: slice, out: Tensor, scratch: Scratch) -> None:
        """Writes [y, -y]."""
        del tokens
        width = self.weight.shape[-1]
        y = scratch("projection", *x.shape[:3], width)
        torch.bmm(x.to(y.dtype).flatten(0, 1), self._matrices(x.shape[0], y.dtype), out=y.flatten(0, 1))
        if self.bias is not None:
            y.add_(self.bias[:, None])
        out[..., :width].copy_(y)
        if self.negate:
            torch.neg(y, out=out[..., width:])

    def gradients(self, x: Tensor, grad: Tensor, totals: Sequence[Tensor], scratch: Scratch) -> Tensor:
        """Gives ∂y·Wᵀ, and adds xᵀ·∂y to the gradient of W, where ∂y is that of y less that of -y."""
        y = scratch("projection", *x.shape[:3], self.weight.shape[-1])
        if self.negate:
            torch.sub(*torch.split(grad, y.shape[-1], -1), out=y)
        else:
            y.copy_(grad)
        matrices = self._matrices(x.shape[0], y.dtype)
        if self.weight.requires_grad:
            total = scratch("matrices", *matrices.shape)
            torch.bmm(x.to(y.dtype).flatten(0, 1).mT, y.flatten(0, 1), out=total)
            totals[0].add_(torch.unflatten(total, 0, (x.shape[0], -1)).sum(0))
        if self.bias is not None and self.bias.requires_grad:
            totals[1].add_(y.sum((0, 2)))
        found = scratch("vectors", *x.shape)
        torch.bmm(y.flatten(0, 1), matrices.mT, out=found.flatten(0, 1))
        return found

    def _matrices(self, batch: int, dtype: torch.dtype) -> Float[Tensor, "bh d w"]:
        return self.weight.to(dtype).expand(batch, -1, -1, -1).flatten(0, 1)

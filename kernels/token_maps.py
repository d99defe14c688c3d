"""Feature maps as linear attention in chunks applies them: to some tokens at a time, and back to gradients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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

    def read(self, x: Tensor, tokens: slice, scratch: Scratch, name: str) -> Float[Tensor, "b h c f"]:
        """Gives what a call gives, in the type of scratch memory; autograd does not follow.

        It may be `x` itself, or scratch memory of that name.
        """
        ...


@runtime_checkable
class ReversibleMap(TokenMap, Protocol):
    """A map that gives gradients without autograd, and with nothing kept of the way forward."""

    def gradients(
        self, x: Tensor, features: Tensor, grad: Float[Tensor, "b h c f"], totals: Sequence[Tensor], scratch: Scratch
    ) -> Float[Tensor, "b h c d"]:
        """Gives the gradient of the vectors from that of their features, perhaps in scratch memory.

        Args:
            x: vectors.
            features: of them; not read where these are logarithms.
            grad: of the features, or of their logarithms; may be changed.
            totals: gradients of the parameters, to which theirs are added.
            scratch: memory.
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

    def read(self, x: Tensor, tokens: slice, scratch: Scratch, name: str) -> Tensor:
        """Gives the features themselves."""
        del tokens, name
        return x.to(scratch.dtype)

    def gradients(
        self, x: Tensor, features: Tensor, grad: Tensor, totals: Sequence[Tensor], scratch: Scratch
    ) -> Tensor:
        """Gives the gradient itself."""
        del x, features, totals, scratch
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

    def read(self, x: Tensor, tokens: slice, scratch: Scratch, name: str) -> Tensor:
        """Applies the map."""
        del name
        return self(x, tokens).to(scratch.dtype)


@dataclass(frozen=True)
class HedgehogTokens:
    """Hedgehog's maps with y = Wx + b, W per head: log φ(x) = [y, -y], or φ(x) as of `HedgehogMap`.

    Attributes:
        weight: [h d w].
        bias: [h w], or None.
        map: "exp", in log space, "softmax" or "softmax_joint".
        negate: without it, y alone.
    """

    weight: Float[Tensor, "h d w"]
    bias: Float[Tensor, "h w"] | None = None
    map: str = "exp"
    negate: bool = True

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """W, and b where there is one."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def __call__(self, x: Tensor, tokens: slice) -> Tensor:
        """Gives the features, or their logarithms."""
        del tokens
        return hedgehog_features(x, self.weight, self.bias, map=self.map, negate=self.negate)

    def read(self, x: Tensor, tokens: slice, scratch: Scratch, name: str) -> Tensor:
        """Gives the features, or their logarithms, in scratch memory."""
        del tokens
        y = scratch("projection", *x.shape[:3], self.weight.shape[-1])
        torch.bmm(x.to(y.dtype).flatten(0, 1), self._matrices(x.shape[0], y.dtype), out=y.flatten(0, 1))
        if self.bias is not None:
            y.add_(self.bias[:, None])
        features = scratch(name, *y.shape[:3], self._signs * y.shape[3])
        exponents = scratch(f"exponents of {name}", *features.shape) if self._is_softmax else features
        signs = torch.unflatten(exponents, -1, (self._signs, -1))
        scale = 2.0 if self.map == "softmax_joint" else 1.0
        torch.mul(y, scale, out=signs[..., 0, :])
        if self.negate:
            torch.mul(y, -scale, out=signs[..., 1, :])
        if self._is_softmax:
            torch.softmax(self._by_softmax(exponents), -1, out=self._by_softmax(features))
        return features

    def gradients(
        self, x: Tensor, features: Tensor, grad: Tensor, totals: Sequence[Tensor], scratch: Scratch
    ) -> Tensor:
        """Gives ∂y·Wᵀ, and adds xᵀ·∂y to the gradient of W."""
        y = self._projection_gradient(features, grad, scratch)
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

    def _projection_gradient(self, features: Tensor, grad: Tensor, scratch: Scratch) -> Float[Tensor, "b h c w"]:
        """Gives ∂y: that of +y less that of -y; of a softmax s, s·(∂s - Σ s·∂s)."""
        if self._is_softmax:
            weights = self._by_softmax(features)
            weighted = self._by_softmax(grad).mul_(weights)
            weighted.addcmul_(weights, weighted.sum(-1, keepdim=True), value=-1.0)
        y = scratch("projection", *grad.shape[:3], self.weight.shape[-1])
        signs = torch.unflatten(grad, -1, (self._signs, -1))
        if self.negate:
            torch.sub(signs[..., 0, :], signs[..., 1, :], out=y)
        else:
            y.copy_(signs[..., 0, :])
        return y.mul_(2.0) if self.map == "softmax_joint" else y

    @property
    def _is_softmax(self) -> bool:
        return self.map != "exp"

    @property
    def _signs(self) -> int:
        return 2 if self.negate else 1

    def _by_softmax(self, x: Tensor) -> Tensor:
        """Gives a view [b h c . .] whose last dimension is what one softmax is over."""
        return x.view(*x.shape[:3], 1 if self.map == "softmax_joint" else self._signs, -1)

    def _matrices(self, batch: int, dtype: torch.dtype) -> Float[Tensor, "bh d w"]:
        return self.weight.to(dtype).expand(batch, -1, -1, -1).flatten(0, 1)


REVERSIBLE_VARIANTS = ("exp", "softmax", "softmax_joint")
"""Variants of Hedgehog's map that `HedgehogTokens` has."""


def hedgehog_tokens(
    weight: Float[Tensor, "h d w"], bias: Float[Tensor, "h w"] | None, map: str, negate: bool
) -> HedgehogTokens | Mapped:
    """Gives a variant of Hedgehog's map for tokens, with gradients of its own where it has them."""
    if map in REVERSIBLE_VARIANTS:
        return HedgehogTokens(weight, bias, map, negate)
    features = partial(hedgehog_features, weight=weight, bias=bias, map=map, negate=negate)
    return Mapped(lambda x, _: features(x), (weight,) if bias is None else (weight, bias))

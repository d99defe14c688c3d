"""Feature maps as linear attention in chunks applies them: to some tokens at a time, and back to gradients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def hide_padding(
    x: Float[Tensor, "b h n d"], mask: Bool[Tensor, "b n"] | None, value: float = 0.0
) -> Float[Tensor, "b h n d"]:
    """The vectors, `value` where the mask is false: gradients and products multiply by them, and 0 · NaN is NaN."""
    return x if mask is None else x.masked_fill(~mask[:, None, :, None], value)


@runtime_checkable
class FeatureReader(Protocol):
    """Reads the features of one tensor's tokens, run by run, and takes gradients back; autograd does not follow.

    Attributes:
        owned: what it reads is memory of its own, which the next run of as many tokens uses again: it may be changed.
    """

    owned: bool

    def read(self, at: slice) -> Float[Tensor, "bh c f"]:
        """The features of these tokens, or their logarithms."""
        ...

    def reverse(self, at: slice, features: Float[Tensor, "bh c f"], grad: Float[Tensor, "bh c f"]) -> None:
        """Takes the gradient of the features of these tokens, or of their logarithms; only of a reversible map.

        Args:
            at: tokens.
            features: of them; not read where these are logarithms.
            grad: gradient, which may be overwritten.
        """
        ...

    def gradients(self) -> tuple[Float[Tensor, "b h n d"], tuple[Tensor, ...]]:
        """The gradients of the tensor and of the map's parameters, once those of all tokens have been taken."""
        ...


@runtime_checkable
class TokenMap(Protocol):
    """Maps any run of tokens to features; a token's features depend on no other token."""

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """All tensors besides the vectors that gradients flow to."""
        ...

    @property
    def reversible(self) -> bool:
        """Whether its readers take gradients; otherwise gradients are left to autograd."""
        ...

    def __call__(self, x: Float[Tensor, "b h c d"], tokens: slice) -> Float[Tensor, "b h c f"]:
        """Features, or their logarithms, of the vectors of these tokens; autograd may follow."""
        ...

    def reader(self, x: Float[Tensor, "b h n d"], dtype: torch.dtype) -> FeatureReader:
        """Makes what reads the features of all of a tensor's tokens, in this type."""
        ...


@dataclass(frozen=True)
class Mapped:
    """Any feature map, or with `GIVEN` none; a map's gradients are left to autograd.

    Attributes:
        function: a feature map, or what takes and gives the same.
        parameters: all tensors besides the vectors that gradients flow to.
        positions: of the tokens, for maps that read them.
        reversible: the function returns its argument, so that its gradient is that of the features.
    """

    function: Callable[[Tensor, Tensor | None], Tensor]
    parameters: tuple[Tensor, ...] = ()
    positions: Int[Tensor, "b n"] | Int[Tensor, " n"] | None = None
    reversible: bool = False

    def __call__(self, x: Tensor, tokens: slice) -> Tensor:
        """Applies the map."""
        return self.function(x, None if self.positions is None else self.positions[..., tokens])

    def reader(self, x: Tensor, dtype: torch.dtype) -> FeatureReader:
        """Makes what applies the map to runs of tokens."""
        return MappedReader(self, x, dtype)


GIVEN = Mapped(lambda x, _: x, reversible=True)
"""The map of features that are given."""


class MappedReader:
    """Applies a map to runs of tokens; gradients are those of the features."""

    owned = False

    def __init__(self, of: TokenMap, x: Float[Tensor, "b h n d"], dtype: torch.dtype) -> None:
        """Reads the tokens of x."""
        self._of = of
        self._x = x
        self._dtype = dtype

    @cached_property
    def _grad(self) -> Tensor:
        return torch.zeros(self._x.shape, dtype=self._x.dtype, device=self._x.device)

    def read(self, at: slice) -> Tensor:
        """Applies the map."""
        return self._of(self._x[:, :, at], at).flatten(0, 1).to(self._dtype)

    def reverse(self, at: slice, features: Tensor, grad: Tensor) -> None:
        """Keeps the gradient."""
        del features
        self._grad.flatten(0, 1)[:, at] = grad

    def gradients(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The gradient kept."""
        return self._grad, ()


class FollowedReader(MappedReader):
    """Applies a map to the runs that a call goes through, so that autograd follows.

    It splits the tokens once: a slice's gradient would be as long as all of them, for every run.
    """

    def __init__(self, of: TokenMap, x: Float[Tensor, "b h n d"], dtype: torch.dtype, runs: Sequence[slice]) -> None:
        """Reads the tokens of x, which the runs cover in order."""
        super().__init__(of, x, dtype)
        pieces = torch.split(x, [run.stop - run.start for run in runs], 2) if len(runs) > 1 else [x] * len(runs)
        self._pieces = {run.start: piece for run, piece in zip(runs, pieces, strict=True)}

    def read(self, at: slice) -> Tensor:
        """Applies the map."""
        return self._of(self._pieces[at.start], at).flatten(0, 1).to(self._dtype)

"""Feature maps as linear attention in chunks applies them: to some tokens at a time, and back to gradients."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Reader(Protocol):
    """Gives the features of one tensor's tokens, run by run, without autograd.

    Attributes:
        owned: what it gives is memory of its own, which the next run of as many tokens uses again: it may be changed.
    """

    owned: bool

    def read(self, at: slice) -> Float[Tensor, "bh c f"]:
        """Gives the features of these tokens, or their logarithms, in the type that was asked for."""
        ...


@runtime_checkable
class ReversibleReader(Reader, Protocol):
    """A reader that also gives gradients, with nothing kept of the way forward."""

    def reverse(self, at: slice, features: Float[Tensor, "bh c f"], grad: Float[Tensor, "bh c f"]) -> None:
        """Takes the gradient of the features of these tokens, or of their logarithms, which it may change.

        Args:
            at: tokens.
            features: of them; not read where these are logarithms.
            grad: gradient.
        """
        ...

    def gradients(self) -> tuple[Float[Tensor, "b h n d"], tuple[Tensor, ...]]:
        """Gives the gradient of the tensor, once all tokens' have been taken, and those of the map's parameters."""
        ...


@runtime_checkable
class TokenMap(Protocol):
    """Gives the features of any run of tokens; a token's features depend on no other token."""

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """All tensors besides the vectors that gradients flow to."""
        ...

    @property
    def reversible(self) -> bool:
        """Whether its readers give gradients; otherwise they are left to autograd."""
        ...

    def __call__(self, x: Float[Tensor, "b h c d"], tokens: slice) -> Float[Tensor, "b h c f"]:
        """Gives features, or their logarithms, of the vectors of these tokens; autograd may follow."""
        ...

    def reader(self, x: Float[Tensor, "b h n d"], dtype: torch.dtype) -> Reader:
        """Gives what reads the features of all of a tensor's tokens, in this type."""
        ...


@dataclass(frozen=True)
class Given:
    """Features that are at hand."""

    parameters: tuple[Tensor, ...] = ()
    reversible: bool = True

    def __call__(self, x: Tensor, tokens: slice) -> Tensor:
        """Gives the features themselves."""
        del tokens
        return x

    def reader(self, x: Tensor, dtype: torch.dtype) -> Reader:
        """Gives what cuts runs out of the features."""
        return _GivenReader(x, dtype)


class _GivenReader:
    owned = False

    def __init__(self, x: Tensor, dtype: torch.dtype) -> None:
        self._x = x
        self._flat = x.flatten(0, 1)
        self._dtype = dtype
        self._found: Tensor | None = None

    def read(self, at: slice) -> Tensor:
        return self._flat[:, at].to(self._dtype)

    def reverse(self, at: slice, features: Tensor, grad: Tensor) -> None:
        del features
        if self._found is None:
            self._found = torch.empty(self._flat.shape, dtype=self._x.dtype, device=self._x.device)
        self._found[:, at].copy_(grad)

    def gradients(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        return (torch.zeros_like(self._x) if self._found is None else self._found.view(self._x.shape)), ()


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

    @property
    def reversible(self) -> bool:
        """No."""
        return False

    def __call__(self, x: Tensor, tokens: slice) -> Tensor:
        """Applies the map."""
        return self.function(x, None if self.positions is None else self.positions[..., tokens])

    def reader(self, x: Tensor, dtype: torch.dtype) -> Reader:
        """Gives what applies the map to runs of tokens."""
        return _MappedReader(self, x, dtype)


class _MappedReader:
    owned = False

    def __init__(self, of: Mapped, x: Tensor, dtype: torch.dtype) -> None:
        self._of = of
        self._x = x
        self._dtype = dtype

    def read(self, at: slice) -> Tensor:
        return self._of(self._x[:, :, at], at).flatten(0, 1).to(self._dtype)

"""The interface of a feature map, which turns queries and keys into the features of linear attention."""

from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Role = Literal["query", "key"]

Positions = Int[Tensor, "b n"] | Int[Tensor, " n"] | None
"""Position of each token in its sequence, from 0: one row per sequence, one row for all, or None."""


class FeatureMap(nn.Module):
    """Maps head vectors [b h n d] to features [b h n f], so that phi(q)·phi(k) stands in for exp(q·k/√d).

    Attributes:
        heads: heads of the tensor it is applied to; with grouped queries the key map has fewer than the query map.
        head_dim: d, the size of the vectors it takes.
        feature_dim: f, the number of features that `forward` returns.
        log_space: `forward` returns log φ; attention forms then take maxima off before they exponentiate.
        positive: φ(q)·φ(k) is never negative, so the row sum is a safe normaliser.
        needs_positions: `forward` must be given positions.
        estimates_softmax: φ(q)·φ(k) estimates exp(q·k/√d) itself; a caller whose softmax has another factor on q·k
            multiplies the queries by the rest.
        of_products: κ with φ(q)·φ(k) = κ(u(q)·u(k)), u being `product_vectors`, which are shorter than the features;
            None where there is no such function. It gives all scores of a short sequence without features.
    """

    feature_dim: int
    log_space: bool = False
    positive: bool = True
    needs_positions: bool = False
    estimates_softmax: bool = False
    of_products: Callable[[Tensor], Tensor] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Drops an inherited `of_products` where `forward` is another: it gives the scores of the features before."""
        super().__init_subclass__(**kwargs)
        if "forward" in vars(cls) and "of_products" not in vars(cls):
            cls.of_products = None

    def __init__(self, heads: int, head_dim: int, *, role: Role = "query", seed: int = 0) -> None:
        """Sets the attributes that all maps have; a map with more or fewer features than d sets `feature_dim` itself.

        Args:
            heads: heads of the tensor the map will be applied to.
            head_dim: size of one head's vectors.
            role: whether the map serves queries or keys; only maps with random initial weights differ between the two.
            seed: seed of random weights. A map whose two sides must share a random matrix draws it from the seed alone.
        """
        super().__init__()
        self.heads = heads
        self.head_dim = head_dim
        self.role = role
        self.seed = seed
        self.feature_dim = head_dim

    @abstractmethod
    def forward(self, x: Float[Tensor, "b h n d"], positions: Positions = None) -> Float[Tensor, "b h n f"]:
        """The features φ(x), or log φ(x) where `log_space` is true (then in float32 at least).

        Args:
            x: head vectors.
            positions: required by maps with `needs_positions`; the others ignore it.
        """

    def features(self, x: Float[Tensor, "b h n d"], positions: Positions = None) -> Float[Tensor, "b h n f"]:
        """The features φ(x). For a map in log space they may overflow where `forward` does not."""
        mapped: Tensor = self(x, positions)
        return mapped.exp() if self.log_space else mapped

    def product_vectors(self, x: Float[Tensor, "b h n d"]) -> Float[Tensor, "b h n w"]:
        """The vectors u(x) of `of_products`.

        Raises:
            NotImplementedError: the map has no `of_products`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no `of_products`")


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """A context without autocast; it does nothing if autocast is off, as entering torch's context has a cost."""
    return torch.autocast(device_type, enabled=False) if torch.is_autocast_enabled(device_type) else nullcontext()

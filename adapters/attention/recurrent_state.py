"""The decode state of gated attention and of convolutions: a matrix for each head, and the last inputs."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from .kv_cache import KVCache


@dataclass(frozen=True)
class RecurrentState:
    """State after the tokens seen so far; its size does not depend on their number.

    Attributes:
        sums: State of the recurrence; None for a convolution alone.
        tail: Last inputs of a short convolution; None without one.
        window: Last keys and values of a sliding window beside the recurrence; None without one.
    """

    sums: Float[Tensor, "b hk d dv"] | None
    tail: Float[Tensor, "b t c"] | None = None
    window: KVCache | None = None

    @property
    def bytes(self) -> int:
        """Bytes of the tensors."""
        held = sum(x.nbytes for x in (self.sums, self.tail) if x is not None)
        return held + (0 if self.window is None else self.window.bytes)

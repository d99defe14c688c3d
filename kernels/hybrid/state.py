"""What the hybrid of a softmax window and linear attention remembers of the tokens seen so far."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..state import LinearState


@dataclass(frozen=True)
class HybridState:
    """The last `window` tokens as they are, and the sums of linear attention over all tokens before them.

    The newest of these tokens could see one more than its window needs, so `window - 1` would do. With one more, the
    token that leaves the window for the sums with each query is the first one held, and queries pair off with delayed
    keys one to one. Keys are held rather than their features: a token's features are computed once, when it leaves, and
    are mostly wider than the key. Positions are held for maps that read them.

    Attributes:
        keys: of the last w tokens; w is the window, or fewer while fewer have been seen.
        values: alike.
        positions: alike.
        mask: true at real tokens among them; None while none was padded.
        linear: sums over all tokens before them; None before the first left the window.
    """

    keys: Float[Tensor, "b hk w d"]
    values: Float[Tensor, "b hk w dv"]
    positions: Int[Tensor, "b w"]
    mask: Bool[Tensor, "b w"] | None = None
    linear: LinearState | None = None

    @property
    def bytes(self) -> int:
        """Size of the tensors, in bytes."""
        tensors = (self.keys, self.values, self.positions, self.mask)
        held = sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)
        return held + (0 if self.linear is None else self.linear.bytes)

    @property
    def tokens(self) -> int:
        """How many tokens are held as they are."""
        return self.keys.shape[2]

    def followed_by(self, newer: "HybridState") -> "HybridState":
        """The tokens held here and then those of `newer`, with the sums of this state."""
        mask = None
        if self.mask is not None or newer.mask is not None:
            mask = torch.cat([self._mask_or_ones(), newer._mask_or_ones()], dim=1)
        return replace(
            self,
            keys=torch.cat([self.keys, newer.keys], dim=2),
            values=torch.cat([self.values, newer.values], dim=2),
            positions=torch.cat([self.positions, newer.positions], dim=1),
            mask=mask,
        )

    def first(self, tokens: int) -> "HybridState":
        """The first so many of the tokens held."""
        return self._part(slice(tokens))

    def last(self, tokens: int) -> "HybridState":
        """The last so many of the tokens held, copied so that the memory of the others is let go."""
        part = self._part(slice(max(0, self.tokens - tokens), None))
        return replace(
            part,
            keys=part.keys.clone(),
            values=part.values.clone(),
            positions=part.positions.clone(),
            mask=None if part.mask is None else part.mask.clone(),
        )

    def _part(self, part: slice) -> "HybridState":
        mask = None if self.mask is None else self.mask[:, part]
        return replace(
            self,
            keys=self.keys[:, :, part],
            values=self.values[:, :, part],
            positions=self.positions[:, part],
            mask=mask,
        )

    def _mask_or_ones(self) -> Tensor:
        return torch.ones_like(self.positions, dtype=torch.bool) if self.mask is None else self.mask

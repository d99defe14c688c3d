"""The state of the hybrid of a softmax window and linear attention: the last tokens, and sums over all before them."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..state import LinearState


@dataclass(frozen=True)
class HybridState:
    """The keys and values of the last `window` tokens, and the sums of linear attention over all tokens before them.

    The window of the next query needs only `window - 1` earlier tokens. With one more, the first token held is the one
    that leaves the window with the next query, so queries and the keys that leave pair off one to one. Keys are held
    rather than their features: a token's features are computed once, when it leaves the window, and are mostly wider
    than the key. Positions are held for maps that read them.

    Attributes:
        keys: keys of the last w tokens; w is the window, or less while fewer tokens have been seen.
        values: values of these tokens.
        positions: positions of these tokens.
        mask: true at those that are real tokens; None if none of them is padding.
        linear: sums over all tokens before them; None until the first token has left the window.
    """

    keys: Float[Tensor, "b hk w d"]
    values: Float[Tensor, "b hk w dv"]
    positions: Int[Tensor, "b w"]
    mask: Bool[Tensor, "b w"] | None = None
    linear: LinearState | None = None

    @property
    def bytes(self) -> int:
        """Size of the tensors, in bytes."""
        held: int = sum(x.nbytes for x in self._tokens().values())
        return held + (0 if self.linear is None else self.linear.bytes)

    @property
    def tokens(self) -> int:
        """The number of tokens whose keys and values are held."""
        return self.keys.shape[2]

    def followed_by(self, newer: "HybridState") -> "HybridState":
        """The tokens of this state followed by those of `newer`, with the sums of this state."""
        masked = self.mask is not None or newer.mask is not None
        earlier, later = (each._with_mask() if masked else each for each in (self, newer))
        theirs = later._tokens()
        joined: dict[str, Any] = {}
        for name, x in earlier._tokens().items():
            joined[name] = torch.cat([x, theirs[name]], _TOKEN_AXES[name])
        return replace(earlier, **joined)

    def first(self, tokens: int) -> "HybridState":
        """The state with only the first `tokens` of the tokens held, as views."""
        return self._part(0, min(tokens, self.tokens))

    def last(self, tokens: int) -> "HybridState":
        """The state with only the last `tokens` of the tokens held, copied so that the others' memory is freed."""
        part = self._part(max(0, self.tokens - tokens), min(tokens, self.tokens))
        return replace(part, **{name: x.clone() for name, x in part._tokens().items()})

    def _part(self, start: int, length: int) -> "HybridState":
        parts = {name: x.narrow(_TOKEN_AXES[name], start, length) for name, x in self._tokens().items()}
        return replace(self, **parts)

    def _tokens(self) -> dict[str, Any]:
        """The tensors of the tokens held, by name; without a mask that is None."""
        held = {name: getattr(self, name) for name in _TOKEN_AXES}
        return {name: x for name, x in held.items() if x is not None}

    def _with_mask(self) -> "HybridState":
        return self if self.mask is not None else replace(self, mask=torch.ones_like(self.positions, dtype=torch.bool))


_TOKEN_AXES = {"keys": 2, "values": 2, "positions": 1, "mask": 1}

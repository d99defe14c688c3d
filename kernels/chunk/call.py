"""The arguments of linear attention in chunks, as one value."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from ..linear.sums import EPS, Division
from ..maps.token_maps import TokenMap
from ..state import LinearState

CHUNK_SIZE = 128
"""Tokens in a chunk unless the caller says otherwise."""


@dataclass(frozen=True)
class ChunkedCall:
    """The arguments of a call of `attention.linear_attention_chunk`.

    Attributes:
        q: features of the queries or their logarithms, or the input of the first map.
        k: features of the keys or their logarithms, or the input of the second map; query head i uses kv head
            i // (h / hk).
        v: values.
        causal: a query sees the keys up to its own.
        key_padding_mask: true where a key is a real token.
        normalize: divide by the row sum.
        eps: added to the row sum, outside log space.
        log_space: the given features, or those of the maps, are logarithms.
        chunk_size: tokens handled at once; with 1, a key is added to the sums before its query reads them.
        initial_state: state after the tokens before these.
        maps: maps of queries and of keys; None if features are given.
    """

    q: Float[Tensor, "b h n d"]
    k: Float[Tensor, "b hk m d"]
    v: Float[Tensor, "b hk m dv"]
    causal: bool
    key_padding_mask: Bool[Tensor, "b m"] | None = None
    normalize: bool = True
    eps: float = EPS
    log_space: bool = False
    chunk_size: int = CHUNK_SIZE
    initial_state: LinearState | None = None
    maps: tuple[TokenMap, TokenMap] | None = None

    @property
    def division(self) -> Division:
        """The step from sums to outputs."""
        # Without a mask or a state, every query sees a key of weight 1 in the feature in which the query's weight is 1,
        # so no denominator is zero.
        may_be_blind = self.key_padding_mask is not None or self.initial_state is not None or not self.k.shape[2]
        return Division(self.normalize, self.eps, self.log_space, may_be_blind)

    @property
    def shared(self) -> int:
        """Keys that every query sees: those before the first query, or all of a call that is not causal."""
        return self.k.shape[2] - self.q.shape[2] if self.causal else self.k.shape[2]

    def shared_runs(self, size: int) -> list[slice]:
        """Cuts the keys that every query sees into runs of `size` tokens."""
        return _runs(self.shared, size)

    def query_runs(self, size: int) -> list[slice]:
        """Cuts the queries into runs of `size` tokens."""
        return _runs(self.q.shape[2], size)

    def keys_of(self, queries: slice) -> slice:
        """The keys that stand at the tokens of these queries in a causal call."""
        return slice(queries.start + self.shared, queries.stop + self.shared)


def _runs(tokens: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]

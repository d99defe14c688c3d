"""Analytic costs of linear attention with Hedgehog's map inside: matrix FLOPs and memory traffic. Needs no torch.

Bytes are what our kernels move, counted from the sizes they are launched with: a launch reads each number that it needs
once, however many of its programs do, and writes each result once. FLOPs are those of the algorithm: scores within
chunks of `CHUNK` tokens, however long the kernels' are, and no sums of vectors. All sizes are d = w = dv, with 2d
features (both halves), as many key heads as query heads, and no mask, bias or initial state.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from .costs import Cost
from .triton.tiles import parts, span_of, tiles_for

CHUNK = 64
"""Tokens in a chunk whose scores are computed."""

ELEMENT_BYTES: Mapping[str, int] = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Bytes of inputs and outputs, by the name of their type."""

SUM_BYTES = 4
"""Bytes of a number in sums, norms and shares of gradients."""


@dataclass(frozen=True)
class Walk:
    """A causal call of the walk over segments, whose kernels are counted one by one.

    Attributes:
        form: "chunk" (several segments, whose sums are computed first); one segment in any other form.
        batch: sequences.
        heads: heads of each sequence.
        tokens: tokens of each sequence.
        d: head dimension.
        dtype: type of inputs and outputs, a key of `ELEMENT_BYTES`.
        log_space: sums have a peak for each feature, as those of the map `exp` have.
    """

    form: str
    batch: int
    heads: int
    tokens: int
    d: int
    dtype: str
    log_space: bool = False

    @property
    def forward(self) -> Cost:
        """The forward pass."""
        return sum(self.forward_kernels.values(), start=Cost(0, 0))

    @property
    def backward(self) -> Cost:
        """The backward pass alone."""
        return sum(self.backward_kernels.values(), start=Cost(0, 0))

    @property
    def forward_kernels(self) -> dict[str, Cost]:
        """Each kernel of the forward pass.

        Per token and head the walk takes 4d² FLOPs to project q and k, 8d² to read and extend the sums, and 6Cd within
        a chunk of C tokens. Before it, sums over the keys of all segments but the last take 6d² and read k and v.
        """
        others, square = self.tokens - self._last, self.d * self.d
        stored = {} if not self._slots else {
            "sum_keys": self._cost(others, 6 * square, self._vectors(2 * others) + self._matrices(1) + self._sums(
                self._slots)),
        }  # fmt: skip
        read = self._vectors(4 * self.tokens) + self._rows(self.tokens) + self._matrices(2) + self._sums(self._later)
        walked = self._cost(self.tokens, 12 * square + 6 * CHUNK * self.d, read + self._sums(self.batch))
        return stored | {"walk": walked}

    @property
    def backward_kernels(self) -> dict[str, Cost]:
        """Each kernel of the backward pass, without a gradient of the state after the last key.

        Per token and head the walk of queries takes 16d² + 6Cd FLOPs and moves q, k, v, o, do and dq; that of keys
        takes 20d² + 12Cd and moves q, k, v, do, dk and dv. Between them, sums over the queries of all segments but the
        first take 6d² and read q and do. Each program of a walk writes its share of dW.
        """
        others, square = self.tokens - self._first, self.d * self.d
        shares = self.batch * self._segments * self.heads * square * SUM_BYTES
        shared = self._vectors(6 * self.tokens) + self._rows(2 * self.tokens) + self._matrices(2) + shares
        queries = self._cost(self.tokens, 16 * square + 6 * CHUNK * self.d, shared + self._sums(self._later))
        keys = self._cost(self.tokens, 20 * square + 12 * CHUNK * self.d, shared + self._sums(self._later))
        stored = {} if not self._later else {
            "sum_queries": self._cost(
                others, 6 * square, self._vectors(2 * others) + self._rows(2 * others) + self._matrices(1)
                + self._sums(self._later) + self._peaks(self._later),
            ),
        }  # fmt: skip
        return {"query_walk": queries, **stored, "key_walk": keys}

    @cached_property
    def _first(self) -> int:
        """Tokens of the first segment."""
        form = "chunk" if self.form == "chunk" else "fused_chunk"
        sizes = tiles_for(self.dtype, self.d, self.d, self.d)
        return min(self.tokens, int(span_of(form, sizes, tokens=self.tokens, heads=self.batch * self.heads)))

    @property
    def _segments(self) -> int:
        """Segments of each sequence."""
        return int(parts(self.tokens, self._first))

    @property
    def _last(self) -> int:
        """Tokens of the last segment."""
        return self.tokens - (self._segments - 1) * self._first

    @property
    def _slots(self) -> int:
        """Segments whose sums are stored."""
        return self.batch * self._segments if self.form == "chunk" else 0

    @property
    def _later(self) -> int:
        """Segments that read sums of others; the sums of as many are read."""
        return self.batch * (self._segments - 1)

    def _cost(self, tokens: int, flops: int, moved: int) -> Cost:
        return Cost(self.batch * self.heads * tokens * flops, moved)

    def _vectors(self, count: int) -> int:
        """Bytes of so many vectors of each head of each sequence."""
        return self.batch * self.heads * count * self.d * ELEMENT_BYTES[self.dtype]

    def _rows(self, count: int) -> int:
        """Bytes of so many numbers of each head of each sequence."""
        return self.batch * self.heads * count * SUM_BYTES

    def _matrices(self, count: int) -> int:
        """Bytes of so many maps."""
        return self.heads * count * self.d * self.d * ELEMENT_BYTES[self.dtype]

    def _sums(self, count: int) -> int:
        """Bytes of the sums of so many segments or sequences."""
        return count * self.heads * 2 * self.d * (self.d + 1) * SUM_BYTES + self._peaks(count)

    def _peaks(self, count: int) -> int:
        """Bytes of the peaks of so many sums."""
        return count * self.heads * 2 * self.d * SUM_BYTES if self.log_space else 0


def fused_decode_cost(*, heads: int, d: int) -> Cost:
    """Counts one decoded token: 12d² FLOPs, and a float32 state of 2d² numbers read and written, for each head.

    Args:
        heads: heads of all sequences in the batch.
        d: head dimension.
    """
    return Cost(heads * 12 * d * d, heads * 16 * d * d)


def distillation_cost(*, pairs: int, token_heads: int, d: int) -> Cost:
    """Counts the distillation loss with its gradients, in float32.

    Each pair costs 2d FLOPs for its logit and 4d for its score in each of four passes (two for the loss, two for
    gradients), and 4d for each of the two gradients. Queries, keys and their features are read once, and the features'
    gradients are written once: 10d numbers for each token and head.

    Args:
        pairs: pairs of a query and a key that it sees, over all heads of the batch.
        token_heads: tokens times heads of the whole batch.
        d: head dimension.
    """
    return Cost(pairs * (4 * 6 * d + 2 * 4 * d), token_heads * 10 * d * 4)

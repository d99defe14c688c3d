"""Linear attention chunk by chunk in memory that is used again, without autograd; keeps what `chunk_backward` needs."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..state import EMPTY_LOG
from . import log_space
from .chunked_call import ChunkedCall, ChunkReader
from .log_space import HEADROOM
from .spill import first_seen
from .sums import Carry


class Trace(NamedTuple):
    """What gradients need of each chunk, batch and heads as one dimension; a call that is not causal counts as one.

    Attributes:
        sums: [chunks r f dv1], which the chunk's queries read.
        shift: [chunks r 1 f], in log space what was taken off the logarithms of keys.
        decay: [chunks r f 1], in log space what sums and the chunk's keys were multiplied with after it.
        factors: [bh n 1], outputs over their numerators.
    """

    sums: Tensor
    shift: Tensor
    decay: Tensor
    factors: Tensor

    @classmethod
    def of(cls, call: ChunkedCall, sums: Float[Tensor, "b hk f dv1"]) -> "Trace":
        """Makes room for a call."""
        chunks = max(1, len(call.query_runs())) if call.options.causal else 1
        logs = chunks if call.options.log_space else 0
        batch, heads, features, columns = sums.shape
        return cls(
            sums.new_empty(chunks, batch * heads, features, columns),
            sums.new_empty(logs, batch * heads, 1, features),
            sums.new_empty(logs, batch * heads, features, 1),
            sums.new_empty(batch * call.q.shape[1], call.q.shape[2], 1),
        )


def attend_by_chunk(
    call: ChunkedCall, carry: Carry, trace: Trace | None = None
) -> tuple[Float[Tensor, "b h n dv"], Carry, set[int]]:
    """Gives the output, in the type of the sums, the sums after the last key, and which chunks were spilled.

    Args:
        call: what was given.
        carry: sums over the keys before these.
        trace: to be written, where gradients will be asked for.
    """
    walk = _Walk(call, carry, trace)
    for at in call.earlier_runs():
        walk.absorb(at)
    walk.keep(0, walk.maxima)
    step = walk.attend if call.options.causal else walk.read
    for chunk, at in enumerate(call.query_runs()):
        step(at, chunk)
    maxima = torch.zeros_like(carry.log_scale) if walk.maxima is None else walk.maxima.view(carry.log_scale.shape)
    output = walk.output.view(*call.q.shape[:3], call.v.shape[3])
    return output, Carry(walk.sums.view(carry.sums.shape), maxima), walk.spilled


class _Walk:
    """The sums over the keys gone through so far, and the output, changed in place.

    Attributes:
        output: [bh n dv].
        sums: [r f dv1].
        maxima: [r 1 f], of the logarithms of the keys; None on features as they are.
        spilled: chunks whose keys towered above the shift.
    """

    def __init__(self, call: ChunkedCall, carry: Carry, trace: Trace | None) -> None:
        self._call = call
        self._trace = trace
        self._all_seen = False
        self.spilled: set[int] = set()
        self.sums = carry.sums.detach().clone(memory_format=torch.contiguous_format).flatten(0, 1)
        self.output = self.sums.new_empty(call.q.shape[0] * call.q.shape[1], call.q.shape[2], call.v.shape[3])
        self.maxima = carry.log_scale.flatten(0, 1)[:, None] if call.options.log_space else None
        # From no key at all, a query's largest weight meets that of the first key, which is 1.
        self._may_see_nothing = call.mask is not None or bool((carry.log_scale > EMPTY_LOG / 2).any())
        self._reader = ChunkReader(call, self.sums)

    def absorb(self, at: slice) -> None:
        """Adds keys that all queries to come see."""
        keys = self._reader.keys(at)
        if self.maxima is not None:
            maxima = torch.maximum(self.maxima, keys.amax(1, keepdim=True))
            self.sums.mul_((self.maxima - maxima).exp_().mT)
            keys = self._reader.less_shift(keys, maxima).exp_()
            self.maxima = maxima
        self._add(keys, self._reader.values(at))

    def read(self, at: slice, chunk: int) -> None:
        """Attends to all that has been absorbed."""
        del chunk
        queries, scale = self._reader.query_weights(at, self.maxima)
        torch.bmm(queries, self.sums, out=self._reader.memory(at).rows)
        self._write(at, scale)

    def attend(self, at: slice, chunk: int) -> None:
        """Attends from a chunk to itself, causally, and to the keys before it; then adds its keys."""
        keys = self._reader.keys(self._call.keys_of(at))
        if self.maxima is None:
            self.keep(chunk, None)
            self._attend(at, keys, None)
            return
        maxima = torch.maximum(self.maxima, keys.amax(1, keepdim=True))
        shift = self._shift(keys)
        self.keep(chunk, shift)
        height = maxima - shift
        if float(height.max()) > HEADROOM[keys.dtype]:
            self.spilled.add(chunk)
            self._attend_spilled(at, keys, shift)
            return
        self._attend(at, self._reader.less_shift(keys, shift).exp_(), shift)
        decay = height.neg_().exp_().mT
        self.sums.mul_(decay)
        self.maxima = maxima
        if self._trace is not None:
            self._trace.decay[chunk].copy_(decay)

    def keep(self, chunk: int, shift: Tensor | None) -> None:
        """Puts the sums before a chunk into the trace, and the shift of its keys."""
        if self._trace is not None:
            self._trace.sums[chunk].copy_(self.sums)
            if shift is not None:
                self._trace.shift[chunk].copy_(shift)

    def _shift(self, keys: Tensor) -> Tensor:
        """Gives the maxima over the keys before a chunk, or its first key where nothing came before."""
        assert self.maxima is not None
        if self._all_seen:
            return self.maxima
        seen = self.maxima > EMPTY_LOG / 2
        self._all_seen = bool(seen.all())
        return torch.where(seen, self.maxima, first_seen(keys[:, None]))

    def _attend(self, at: slice, keys: Tensor, shift: Tensor | None) -> None:
        reader, rows = self._reader, self._reader.memory(at).rows
        queries, scale = reader.query_weights(at, shift)
        values = reader.values(self._call.keys_of(at))
        torch.bmm(reader.scores(at, queries, keys), values, out=rows)
        torch.baddbmm(rows, queries, self.sums, out=rows)
        self._write(at, scale)
        self._add(keys, values)

    def _attend_spilled(self, at: slice, keys: Tensor, shift: Tensor) -> None:
        """Does the same where keys tower above the shift; rows that see none of them are the same to the bit."""
        reader = self._reader
        queries, values = reader.queries(at), reader.values(self._call.keys_of(at))
        carry = Carry(self.sums[:, None], shift)
        rows, carry = log_space.causal_step(queries[:, None], keys[:, None], values[:, None], carry)
        reader.memory(at).rows.copy_(rows.sums[:, 0])
        self._write(at, rows.log_scale[:, 0])
        self.sums.copy_(carry.sums[:, 0])
        self.maxima = carry.log_scale

    def _add(self, keys: Tensor, values: Tensor) -> None:
        torch.baddbmm(self.sums, keys.mT, values, out=self.sums)

    def _write(self, at: slice, scale: Tensor) -> None:
        """Divides, or undoes the scale, and writes to output and trace; a row that sees no key gives zero."""
        options, memory, output = self._call.options, self._reader.memory(at), self.output[:, at]
        factors = memory.denominators
        if options.normalize:
            if not options.log_space:
                factors.add_(options.eps)
            elif self._may_see_nothing:
                factors.masked_fill_(factors == 0, 1.0)
            torch.div(memory.numerators, factors, out=output)
            factors.reciprocal_()
        else:
            factors = self._reader.by_query_head(scale.exp()) if options.log_space else torch.ones_like(factors)
            torch.mul(memory.numerators, factors, out=output)
        if self._trace is not None:
            self._trace.factors[:, at].copy_(factors)

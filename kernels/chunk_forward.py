"""Linear attention chunk by chunk in scratch memory, without autograd; keeps what `chunk_backward` needs."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from . import log_space
from .chunk_weights import add_product, key_weights, less_shift, product, query_weights, scores_within
from .chunked_call import ChunkedCall
from .log_space import HEADROOM
from .spill import first_seen
from .state import EMPTY_LOG
from .sums import Carry, Rows


class Trace(NamedTuple):
    """What gradients need of each chunk; a call that is not causal counts as one.

    Attributes:
        sums: [chunks b hk f dv1], which the chunk's queries read.
        shift: [chunks b hk 1 f], in log space what was taken off the logarithms of keys.
        decay: [chunks b hk f 1], in log space what sums and the chunk's keys were multiplied with after it.
        factors: [b h n 1], outputs over their numerators.
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
        return cls(
            sums.new_empty(chunks, *sums.shape),
            sums.new_empty(logs, *sums.shape[:2], 1, sums.shape[2]),
            sums.new_empty(logs, *sums.shape[:3], 1),
            sums.new_empty(*call.q.shape[:3], 1),
        )


def attend_by_chunk(
    call: ChunkedCall, carry: Carry, trace: Trace | None = None
) -> tuple[Float[Tensor, "b h n dv"], Carry]:
    """Gives the output, in the type of the sums, and the sums after the last key.

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
    maxima = torch.zeros_like(carry.log_scale) if walk.maxima is None else walk.maxima.squeeze(-2)
    return walk.output, Carry(walk.sums, maxima)


class _Walk:
    """The sums over the keys gone through so far, and the output, changed in place.

    Attributes:
        output: [b h n dv].
        sums: [b hk f dv1].
        maxima: [b hk 1 f], of the logarithms of the keys; None on features as they are.
    """

    def __init__(self, call: ChunkedCall, carry: Carry, trace: Trace | None) -> None:
        self._call = call
        self._trace = trace
        self._all_seen = False
        self.output = carry.sums.new_empty(*call.q.shape[:3], call.v.shape[3])
        self.sums = carry.sums.detach().clone(memory_format=torch.contiguous_format)
        self.maxima = carry.log_scale[..., None, :] if call.options.log_space else None

    def absorb(self, at: slice) -> None:
        """Adds keys that all queries to come see."""
        if self.maxima is None:
            keys = key_weights(self._call, at, None)
        else:
            keys = self._call.keys(at)
            maxima = torch.maximum(self.maxima, keys.amax(-2, keepdim=True))
            self.sums.mul_((self.maxima - maxima).exp_().mT)
            keys = less_shift(self._call, keys, maxima).exp_()
            self.maxima = maxima
        add_product(self.sums, keys.mT, self._call.values(at))

    def read(self, at: slice, chunk: int) -> None:
        """Attends to all that has been absorbed."""
        del chunk
        queries, scale = query_weights(self._call, at, self.maxima)
        rows = self._call.scratch("rows", *queries.shape[:3], self.sums.shape[3])
        self._write(Rows(product(queries, self.sums, rows), scale), at)

    def attend(self, at: slice, chunk: int) -> None:
        """Attends from a chunk to itself, causally, and to the keys before it; then adds its keys."""
        tokens = self._call.keys_of(at)
        if self.maxima is None:
            self.keep(chunk, None)
            self._attend(at, key_weights(self._call, tokens, None), None)
            return
        keys = self._call.keys(tokens)
        maxima = torch.maximum(self.maxima, keys.amax(-2, keepdim=True))
        shift = self._shift(keys)
        self.keep(chunk, shift)
        if bool((maxima - shift > HEADROOM[keys.dtype]).any()):
            self._attend_spilled(at, shift)
            return
        self._attend(at, less_shift(self._call, keys, shift).exp_(), shift)
        decay = (shift - maxima).exp_().mT
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
        seen = self.maxima > EMPTY_LOG / 2
        self._all_seen = self._all_seen or bool(seen.all())
        return self.maxima if self._all_seen else torch.where(seen, self.maxima, first_seen(keys)[..., None, :])

    def _attend(self, at: slice, keys: Tensor, shift: Tensor | None) -> None:
        queries, scale = query_weights(self._call, at, shift)
        values = self._call.values(self._call.keys_of(at))
        scores = scores_within(self._call, queries, keys)
        rows = product(scores, values, self._call.scratch("rows", *queries.shape[:3], values.shape[3]))
        self._write(Rows(add_product(rows, queries, self.sums), scale), at)
        add_product(self.sums, keys.mT, values)

    def _attend_spilled(self, at: slice, shift: Tensor) -> None:
        """Does the same where keys tower above the shift; rows that see none of them are the same to the bit."""
        call, tokens = self._call, self._call.keys_of(at)
        carry = Carry(self.sums, shift.squeeze(-2))
        queries = call.by_kv_head(call.queries(at))
        rows, carry = log_space.causal_step(queries, call.keys(tokens), call.values(tokens), carry)
        self._write(rows, at)
        self.sums.copy_(carry.sums)
        self.maxima = carry.log_scale[..., None, :]

    def _write(self, rows: Rows, at: slice) -> None:
        """Divides, or undoes the scale, and writes to output and trace; a row that sees no key gives zero."""
        options, by_query_head = self._call.options, self._call.by_query_head
        numerators, divisors = torch.split(by_query_head(rows.sums), [rows.sums.shape[3] - 1, 1], -1)
        output = self.output[:, :, at]
        if not options.normalize:
            factors = by_query_head(rows.log_scale.exp()) if options.log_space else torch.ones_like(divisors)
            torch.mul(numerators, factors, out=output)
        else:
            divisors = divisors.masked_fill_(divisors == 0, 1.0) if options.log_space else divisors.add_(options.eps)
            torch.div(numerators, divisors, out=output)
            factors = divisors.reciprocal_()
        if self._trace is not None:
            self._trace.factors[:, :, at].copy_(factors)
